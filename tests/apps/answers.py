"""Answers with the header fields that its query asks for, and raises where the path says so."""
from urllib.parse import parse_qsl


def application(environ, start_response):
    if environ["PATH_INFO"].endswith("/boom"):
        raise RuntimeError("boom")
    start_response("200 OK", [("Content-Type", "text/plain"), *parse_qsl(environ["QUERY_STRING"])])
    return [environ["REQUEST_METHOD"].encode() + b" by the application"]
