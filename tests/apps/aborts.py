"""Tells, by the monotonic clock, when a client's leaving was noticed: what was raised, and close()."""
import json
import time

happened = []


def note(what):
    happened.append([what, time.monotonic()])


class Noted:
    """An iterable that notes its close()."""

    def __init__(self, blocks):
        self.blocks = blocks

    def __iter__(self):
        return self.blocks

    def close(self):
        self.blocks.close()
        note("close")


def full(environ, start_response):
    """Sends for ever, so that it waits for credit once the client has stopped reading."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    def blocks():
        block = b"x" * 65536
        while True:
            yield block
    return Noted(blocks())


def full_write(environ, start_response):
    """The same by write(), which raises."""
    put = start_response("200 OK", [("Content-Type", "text/plain")])
    block = b"x" * 65536
    try:
        while True:
            put(block)
    except OSError as error:
        note(type(error).__name__)
        raise


def ticks(environ, start_response):
    """A little every 10 ms."""
    start_response("200 OK", [("Content-Type", "text/event-stream")])
    def blocks():
        while True:
            yield b"data: tick\n\n"
            time.sleep(0.01)
    return Noted(blocks())


def ticks_write(environ, start_response):
    """The same by write()."""
    put = start_response("200 OK", [("Content-Type", "text/event-stream")])
    try:
        while True:
            put(b"data: tick\n\n")
            time.sleep(0.01)
    except OSError as error:
        note(type(error).__name__)
        raise


def upload(environ, start_response):
    """Reads its body to the end."""
    stream = environ["wsgi.input"]
    try:
        first = stream.read(1)
        note("begun")
        length = len(first) + sum(len(block) for block in iter(lambda: stream.read(1000), b""))
    except OSError as error:
        note(type(error).__name__)
        raise
    note(f"complete {length}")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(length).encode()]


def raises(environ, start_response):
    """Raises in mid-stream."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield b"some "
    yield b"more"
    time.sleep(0.2)  # what fails before the client has seen anything is 500 instead
    raise RuntimeError("in mid-stream")


def short(environ, start_response):
    """Ends before its Content-Length."""
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "40")])
    yield b"some "
    yield b"more"
    time.sleep(0.2)


def look(environ, start_response):
    """What has happened, and what time it is."""
    body = json.dumps({"happened": happened, "now": time.monotonic()}).encode()
    start_response("200 OK", [("Content-Type", "application/json")])
    return [body]


def forget(environ, start_response):
    """Begins a new list."""
    happened.clear()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b""]


PATHS = {f"/{function.__name__}": function for function in (full, full_write, ticks, ticks_write, upload, raises, short, look, forget)}


def application(environ, start_response):
    return PATHS[environ["PATH_INFO"]](environ, start_response)
