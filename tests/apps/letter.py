"""More of the WSGI contract, clause by clause: what contract.py does not ask. Each function says which clause."""
import gc
import io
import json
import os
import sys
import tempfile
import threading
import weakref
from urllib.parse import parse_qs

from contract import TEXT, Closing, closed

kept = {}


def argument(environ, name, default=""):
    return parse_qs(environ["QUERY_STRING"]).get(name, [default])[0]


def tell(start_response, document):
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(document).encode()]


def fresh(environ, start_response):
    """1: nothing that an application does to environ is there the next time."""
    seen = [key for key in ("portcullis.mark", "PROBE") if key in environ]
    seen += [key for key in ("mark",) if key in environ.get("portcullis.user", {})]
    before = len(environ)
    environ["portcullis.mark"] = "mine"
    environ["PATH_INFO"] = "/elsewhere"
    del environ["SERVER_NAME"]
    environ.get("portcullis.user", {})["mark"] = "mine"
    return tell(start_response, {"seen": seen, "size": before, "probe": os.environ.get("PROBE")})


def types(environ, start_response):
    """1 and 8: native strings and bools, exactly; nothing that can be called without arguments."""
    wrong = []
    for key, value in environ.items():
        if "." not in key and type(value) is not str:
            wrong.append(f"{key} is a {type(value).__name__}")
        if type(value) is str and any(ord(c) > 255 for c in value):
            wrong.append(f"{key} is no native string")
        if callable(value):
            try:
                value()
                wrong.append(f"{key} can be called")
            except TypeError:
                pass
    for key in ("wsgi.multithread", "wsgi.multiprocess", "wsgi.run_once", "wsgi.input_terminated"):
        if type(environ[key]) is not bool:
            wrong.append(f"{key} is a {type(environ[key]).__name__}")
    if type(environ["wsgi.version"]) is not tuple or environ["wsgi.version"] != (1, 0):
        wrong.append("wsgi.version")
    return tell(start_response, {"wrong": wrong, "dict": type(environ) is dict})


class Text(str):
    pass


BAD_HEADERS = {
    "bytes-name": [(b"X-A", "b")],
    "bytes-value": [("X-A", b"b")],
    "list-pair": [["X-A", "b"]],
    "three": [("X-A", "b", "c")],
    "empty-name": [("", "b")],
    "colon": [("X-A:", "b")],
    "nul": [("X-A", "b\0c")],
    "del": [("X-A", "b\x7f")],
    "lf": [("X-A", "b\nc")],
    "beyond": [("X-A", "\u20ac")],
    "surrogate": [("X-A", "\ud800")],
    "none": None,
    "two-lengths": [("Content-Length", "1"), ("content-length", "1")],
    "minus": [("Content-Length", "-1")],
    "list-of-lengths": [("Content-Length", "1, 1")],
}


def bad_headers(environ, start_response):
    """10 and 19: what is no list of native pairs raises in the application, and says so to it."""
    try:
        start_response("200 OK", BAD_HEADERS[argument(environ, "which")])
    except (TypeError, ValueError) as error:
        kept["said"] = f"{type(error).__name__}: {error}"
        raise
    return [b"x"]


def said(environ, start_response):
    return tell(start_response, kept.get("said"))


def recovers(environ, start_response):
    """10: after an error of start_response the application may still answer."""
    try:
        start_response("200 OK", [("X-Left", "over"), ("X A", "b")])
    except ValueError:
        start_response("500 Mine", TEXT)
    return [b"recovered"]


def text_subclass(environ, start_response):
    """9 and 10: subclasses of str are str."""
    start_response(Text("200 OK"), [(Text("X-A"), Text("b"))])
    return [b"ok"]


class Marked(Exception):
    pass


def exc_info_dropped(environ, start_response):
    """11: the gate keeps no reference to exc_info."""
    if "look" in environ["QUERY_STRING"]:
        gc.collect()
        return tell(start_response, {"alive": kept["exception"]() is not None})
    start_response("200 OK", TEXT)
    try:
        raise Marked("early")
    except Marked as error:
        kept["exception"] = weakref.ref(error)
        start_response("500 Replaced", TEXT, sys.exc_info())
    return [b"replaced"]


def exc_info_reraised(environ, start_response):
    """11: too late for another answer, the very exception comes back."""
    put = start_response("200 OK", TEXT)
    put(b"sent ")
    try:
        raise Marked("late")
    except Marked as error:
        try:
            start_response("500 Too Late", TEXT, sys.exc_info())
        except Marked as again:
            return [b"the same" if again is error else b"another"]
    return [b"nothing was raised"]


def write_kinds(environ, start_response):
    """12: write takes bytes; anything else raises, and what was written stays."""
    put = start_response("200 OK", TEXT)
    put(b"a")
    put(b"")
    for wrong in ("text", 7, None, bytearray(b"x")):
        try:
            put(wrong)
        except TypeError:
            put(b"!")
    return [b"z"]


def keep_write(environ, start_response):
    """12: write and start_response of a request that is over reach nobody else's answer."""
    kept["write"], kept["start"] = start_response("200 OK", TEXT), start_response
    return [b"kept"]


def late_write(environ, start_response):
    raised = []
    for call in (lambda: kept["write"](b"stolen"), lambda: kept["start"]("200 OK", [("X-Stolen", "yes")])):
        try:
            call()
        except Exception as error:
            raised.append(type(error).__name__)
    start_response("200 OK", TEXT)
    return [" ".join(raised).encode()]


def write_only(environ, start_response):
    """12 and 20: everything by write, nothing returned."""
    put = start_response("200 OK", TEXT)
    put(b"all of it")
    return []


def generator_empty(environ, start_response):
    """13: start_response inside an iteration that yields nothing."""
    start_response("202 Nothing", TEXT)
    return
    yield


def body_first(environ, start_response):
    """13: a block before start_response."""
    yield b"too early"
    start_response("200 OK", TEXT)


def never_started(environ, start_response):
    """13 and 17: start_response is never called, close() is."""
    return Closing([b""])


def several(environ, start_response):
    """14: a tuple."""
    start_response("200 OK", TEXT)
    return (b"a", b"", b"bc")


KINDS = {"str": "text", "int": 7, "none": None, "bytearray": bytearray(b"x"), "memoryview": memoryview(b"x"), "list": [b"x"]}


def kinds(environ, start_response):
    """16: only bytes are bytes; ?where=list or iterable, ?after= for a block before it."""
    start_response("200 OK", TEXT)
    blocks = [KINDS[argument(environ, "kind")]]
    if argument(environ, "where") == "list":
        return blocks
    return Closing([b"some"] * bool(argument(environ, "after")) + blocks)


def count(environ, start_response):
    """17: how many were closed."""
    start_response("200 OK", TEXT)
    return [str(closed["count"]).encode()]


class NoIterator(Closing):
    def __iter__(self):
        raise RuntimeError("no iterator")


def iter_raises(environ, start_response):
    """17: close() even if the iteration never begins."""
    start_response("200 OK", TEXT)
    return NoIterator([])


def base_later(environ, start_response):
    """18: SystemExit in mid-body is a truncation and not the worker's end."""
    start_response("200 OK", TEXT)
    return Closing([b"some", SystemExit("left")])


def too_long_list(environ, start_response):
    """19: a list beyond its Content-Length."""
    start_response("200 OK", TEXT + [("Content-Length", "4")])
    return [b"four", b"more"]


def too_long_write(environ, start_response):
    """19: write() beyond the Content-Length."""
    put = start_response("200 OK", TEXT + [("Content-Length", "4")])
    put(b"four")
    put(b"more")
    return [b"and more"]


class Opened(io.BytesIO):
    def close(self):
        closed["count"] += 1
        super().close()


class OnlyRead:
    """Neither fileno nor close nor iteration."""

    def __init__(self, data):
        self.data = io.BytesIO(data)

    def read(self, size):
        return self.data.read(size)


def wrapper(environ, start_response):
    """22: what may be wrapped and how it may be returned."""
    make, which = environ["wsgi.file_wrapper"], argument(environ, "which")
    start_response("200 OK", TEXT)
    if which == "bytesio":
        return make(Opened(b"x" * 100_000))
    if which == "real":
        file = tempfile.TemporaryFile()
        file.write(b"skipped" + b"y" * 200_000)
        file.seek(7)
        return make(file, 8192)
    if which == "read":
        return make(OnlyRead(b"z" * 100_000))
    if which == "mapped":
        return map(bytes.upper, make(io.BytesIO(b"lower"), 2))
    if which == "text":
        return make(io.StringIO("text"))
    return [json.dumps([isinstance(make, type), type(make(io.BytesIO(b""))) is make]).encode()]


def all_of(environ, start_response):
    """23: every way to say everything, and the end for ever."""
    stream, how = environ["wsgi.input"], argument(environ, "how")
    ways = {
        "read": lambda: stream.read(), "minus": lambda: stream.read(-1), "none": lambda: stream.read(None),
        "lines": lambda: b"".join(stream.readlines()), "iter": lambda: b"".join(stream),
        "readline": lambda: b"".join(iter(stream.readline, b"")), "read1": lambda: b"".join(iter(lambda: stream.read1(7), b"")),
        "into": lambda: into(stream), "beyond": lambda: stream.read(10**9),
    }
    body = ways[how]()
    ends = [stream.read(), stream.read(1), stream.readline(), stream.readlines(), list(stream), stream.read1(), stream.read(0)]
    return tell(start_response, {"body": body.decode("latin-1"), "ends": [len(end) for end in ends]})


def into(stream):
    buffer, parts = bytearray(1000), []
    while size := stream.readinto(buffer):
        parts.append(bytes(buffer[:size]))
    return b"".join(parts)


def errors_kinds(environ, start_response):
    """28: a text stream with all that PEP 3333 asks of it, from several threads at once."""
    stream = environ["wsgi.errors"]
    threads = [threading.Thread(target=lambda n=n: [stream.write(f"thread {n} line {i}\n") for i in range(50)]) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stream.writelines(["listed\n"])
    stream.flush()
    try:
        stream.write(b"bytes\n")
    except TypeError:
        stream.write("bytes are refused\n")
    start_response("200 OK", TEXT)
    return [b"logged"]


PATHS = {"/" + name: function for name, function in list(globals().items()) if callable(function) and function.__doc__ or name in ("said", "late_write")}


def application(environ, start_response):
    return PATHS[environ["PATH_INFO"]](environ, start_response)
