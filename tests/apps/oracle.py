"""Says what it was called for, and marks what it holds to be protected, reading its path as carelessly as it can.

`X-Protected`: below /admin once the path is decoded again, its backslashes turned and its dots and slashes resolved.
`X-Generous`: the same for somebody who then ignores case, blanks, the width of letters, and what follows `;`, `?` or `#` too.
`/count` tells how often each path was called.
"""
import json
import re
import threading
import unicodedata
from urllib.parse import unquote_to_bytes

calls = {}
lock = threading.Lock()


def careless(path):
    for _ in range(3):
        path = unquote_to_bytes(path)
    path = re.split(rb"[\x00\r\n]", path.replace(b"\\", b"/"))[0]
    segments = []
    for segment in path.split(b"/"):
        if segment == b"..":
            segments = segments[:-1]
        elif segment not in (b"", b"."):
            segments.append(segment)
    return b"/" + b"/".join(segments)


def generous(path):
    text = unicodedata.normalize("NFKC", careless(path).decode("utf-8", "replace")).lower()
    return "/".join(re.split("[;?#]", segment)[0].strip() for segment in text.split("/")).encode()


def below_admin(path):
    return path == b"/admin" or path.startswith(b"/admin/")


def application(environ, start_response):
    path = environ["PATH_INFO"].encode("latin-1")
    with lock:
        if path == b"/count":
            document = dict(calls)
        else:
            calls[environ["PATH_INFO"]] = calls.get(environ["PATH_INFO"], 0) + 1
            document = {
                "script": environ["SCRIPT_NAME"],
                "path": environ["PATH_INFO"],
                "request": environ["portcullis.request_id"],
                "number": environ.get("HTTP_X_NUMBER"),
                "body": environ["wsgi.input"].read().decode("latin-1"),
            }
    body = json.dumps(document).encode()
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    if below_admin(careless(path)):
        headers.append(("X-Protected", "yes"))
    if below_admin(generous(path)):
        headers.append(("X-Generous", "yes"))
    start_response("200 OK", headers)
    return [body]
