"""Gives a request's body back piece by piece: bodies and streams in both directions."""

BLOCK = 16 * 1024


def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    return iter(lambda: environ["wsgi.input"].read(BLOCK), b"")
