"""Well-behaved paths of contract.py inside wsgiref.validate: it raises where either side breaks PEP 3333."""
from wsgiref.validate import validator

import contract


def hello(environ, start_response):
    """GET, POST and HEAD: reads the body and answers with its length."""
    length = len(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)))
    body = b"" if environ["REQUEST_METHOD"] == "HEAD" else f"read {length}".encode()
    headers = [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))]
    start_response("200 OK", headers)
    return [body]


def stream(environ, start_response):
    """The body back, line by line."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return iter(environ["wsgi.input"].readline, b"")


def early(environ, start_response):
    """A generator made by a function, so that start_response runs before the first block is asked for."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return (block for block in [b"one ", b"two"])


def write(environ, start_response):
    """write() before the iterable."""
    start_response("200 OK", [("Content-Type", "text/plain")])(b"written ")
    return [b"returned"]


PATHS = {"/": hello, "/stream": stream, "/early": early, "/write": write, "/multi_chunks": contract.multi_chunks}


def route(environ, start_response):
    return PATHS[environ["PATH_INFO"]](environ, start_response)


application = validator(route)
