"""Well-behaved paths of contract.py inside wsgiref.validate: it raises where either side breaks PEP 3333."""
import io
import sys
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


def replaced(environ, start_response):
    """A second head with exc_info."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    try:
        raise ValueError("early")
    except ValueError:
        start_response("503 Replaced", [("Content-Type", "text/plain")], sys.exc_info())
    return [b"replaced"]


def nothing(environ, start_response):
    """204: no body, no headers about one."""
    start_response("204 No Content", [])
    return []


def not_modified(environ, start_response):
    """304."""
    start_response("304 Not Modified", [("ETag", '"1"')])
    return []


def wrapped(environ, start_response):
    """A file through wsgi.file_wrapper, which is an iterable to the validator."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return environ["wsgi.file_wrapper"](io.BytesIO(b"wrapped file"), 5)


def errors(environ, start_response):
    """All methods of wsgi.errors."""
    stream = environ["wsgi.errors"]
    stream.write("validated\n")
    stream.writelines(["and more\n"])
    stream.flush()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"logged"]


def reading(environ, start_response):
    """All methods of wsgi.input."""
    stream = environ["wsgi.input"]
    parts = [stream.readline(), stream.read(3), *stream.readlines(1), *stream]
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"|".join(parts)]


def closing(environ, start_response):
    """An iterable with close(), which the validator insists on."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return contract.Closing([b"one ", b"two"])


MORE = (replaced, nothing, not_modified, wrapped, errors, reading, closing)
PATHS = {"/": hello, "/stream": stream, "/early": early, "/write": write, "/multi_chunks": contract.multi_chunks}
PATHS |= {f"/{function.__name__}": function for function in MORE}


def route(environ, start_response):
    return PATHS[environ["PATH_INFO"]](environ, start_response)


application = validator(route)
