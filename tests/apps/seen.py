"""Tells in a header what it was asked, and has no body of its own: the next answer begins right behind the head."""
import json


def application(environ, start_response):
    seen = {
        "method": environ["REQUEST_METHOD"],
        "path": environ["PATH_INFO"],
        "query": environ["QUERY_STRING"],
        "body": environ["wsgi.input"].read().decode("latin-1"),
        "headers": sorted(key for key in environ if key.startswith("HTTP_")),
    }
    start_response("200 OK", [("X-Seen", json.dumps(seen)), ("Content-Length", "0")])
    return []
