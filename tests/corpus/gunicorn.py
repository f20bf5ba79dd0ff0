"""Sends gunicorn's request corpus to a gateway and prints, file by file, where what happens is not what gunicorn expects.

    python gunicorn.py CORPUS HOST PORT CA

CORPUS is the unpacked source distribution. In each file of tests/requests, `\r\n` and the like are written out and line
ends mean nothing; the .py beside it has what gunicorn reads in it, or the exception that it raises. One line per file:
its name and `as expected`, or what happened instead. Two things are not gunicorn's question and are put right first:

* HTTP/1.1 without Host is 400 here, as RFC 9112 section 3.2 has it, and most of the corpus has none. Each such file is
  sent as it is and has to be refused; then it is sent with `Host: localhost` in every head without one.
* Files end where their last request ends, so the connection has to be closed by the gateway: its time-outs are short.
"""

import json
import re
import socket
import ssl
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from importlib.machinery import SourceFileLoader
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

corpus, host, port, ca = sys.argv[1:]
sys.path.insert(0, corpus)
from gunicorn.config import Config
from gunicorn.util import split_request_uri

REQUEST_LINE = re.compile(rb"^[!-~]+ [^\r\n]* HTTP/([^\r\n]*)\r\n", re.M)
tls = ssl.create_default_context(cafile=ca)
tls.set_alpn_protocols(["http/1.1"])


def uri(text):
    parts = split_request_uri(text)
    return {"raw": text, "path": parts.path or "", "query": parts.query or ""}


def expectation(file):
    """A list of requests, or the name of an exception."""
    module = types.ModuleType("expectation")
    module.uri, module.cfg = uri, Config()
    SourceFileLoader("expectation", str(file)).exec_module(module)
    wanted = module.request
    return wanted.__name__ if isinstance(wanted, type) else wanted if isinstance(wanted, list) else [wanted]


def octets(file):
    data = file.read_bytes().replace(b"\n", b"")
    for written, meant in ((b"\\r\\n", b"\r\n"), (b"\\0", b"\0"), (b"\\n", b"\n"), (b"\\t", b"\t")):
        data = data.replace(written, meant)
    return re.sub(rb"\\x([0-9a-fA-F]{2})", lambda found: bytes([int(found[1], 16)]), data)


def with_host(data, most):
    """The same with a Host field in the first heads of HTTP/1.1 that have none; what follows them may be a body that
    looks like a head."""
    out, at = b"", 0
    for line in list(REQUEST_LINE.finditer(data))[:most]:
        head = data[line.end():].split(b"\r\n\r\n")[0]
        out += data[at:line.end()]
        at = line.end()
        if line[1] == b"1.1" and not re.search(rb"^host[ \t]*:", head, re.M | re.I):
            out += b"Host: localhost\r\n"
    return out + data[at:]


def answers(data):
    """Status and, from the application, what it saw, for every answer until the gateway closes."""
    received = b""
    with socket.create_connection((host, int(port)), timeout=60) as plain, tls.wrap_socket(plain, server_hostname="localhost") as stream:
        try:
            stream.sendall(data)
            while block := stream.recv(65536):
                received += block
        except (ConnectionError, ssl.SSLError):
            pass
    while received:
        head, _, received = received.partition(b"\r\n\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in head.split(b"\r\n")[1:])}
        status = int(head.split(b" ")[1])
        received = received[int(fields.get(b"content-length", 0)):]
        if status != 100:
            seen = fields.get(b"x-seen")
            yield status, json.loads(seen) if seen else None


def differs(wanted, seen):
    """Why the application did not see that request, or nothing."""
    target = wanted["uri"]
    path = urlsplit(target["raw"]).path if "://" in target["raw"] else target["path"]
    expected = {
        "method": wanted["method"],
        "path": unquote_to_bytes(path).decode("latin-1"),
        "query": target["query"],
        "body": wanted["body"] if isinstance(wanted["body"], str) else wanted["body"].decode("latin-1"),
    }
    wrong = [f"{key} {seen[key]!r} and not {value!r}" for key, value in expected.items() if seen[key] != value]
    return ", ".join(wrong)


def check(file):
    name = f"{file.parent.name}/{file.stem}"
    data, wanted = octets(file), expectation(file.with_suffix(".py"))
    complete = with_host(data, None if isinstance(wanted, str) else len(wanted))
    if complete != data and any(seen for _, seen in list(answers(data))[:1]) and b"HTTP/1.0" not in data:
        return name, "accepted without Host"
    heard = list(answers(complete))
    served, refused = [seen for _, seen in heard if seen], [status for status, seen in heard if not seen]
    if isinstance(wanted, str):
        refusals = [status for status in refused if not 400 <= status < 500]
        if refusals:
            return name, f"answered {refusals[0]}"
        # Without an answer the request was not complete, and the connection was closed on it.
        accepted = count(complete) <= len(served)
        return name, f"accepted, expected {wanted}" if accepted else "as expected"
    if refused:
        return name, f"refused with {refused[0]} after {len(served)} of {len(wanted)}"
    if len(served) != len(wanted):
        return name, f"{len(served)} requests and not {len(wanted)}"
    wrong = [why for why in map(differs, wanted, served) if why]
    return name, "; ".join(wrong) or "as expected"


def count(data):
    """How many requests the file holds, as far as request lines tell."""
    return max(1, len(REQUEST_LINE.findall(data)))


files = sorted(Path(corpus, "tests/requests").glob("*/*.http"))
with ThreadPoolExecutor(16) as pool:
    for name, outcome in pool.map(check, files):
        print(f"{name}  {outcome}")
