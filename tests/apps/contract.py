"""One callable with a path for every behaviour of the WSGI contract, good and bad; each function says which."""
import ctypes
import gzip
import io
import json
import os
import sys
import tempfile
import threading
import time
from urllib.parse import parse_qs

TEXT = [("Content-Type", "text/plain")]
closed = {"count": 0}
local = threading.local()
word = threading.Semaphore(0)
kept = []


class Closing:
    """An iterable that counts how often it is closed."""

    def __init__(self, blocks, fail_at=None):
        self.blocks, self.fail_at = iter(blocks), fail_at

    def __iter__(self):
        return self

    def __next__(self):
        block = next(self.blocks)
        if isinstance(block, BaseException):
            raise block
        return block

    def close(self):
        closed["count"] += 1


def argument(environ, name, default):
    return type(default)(parse_qs(environ["QUERY_STRING"]).get(name, [default])[0])


def hello(environ, start_response):
    """The shortest answer."""
    start_response("200 OK", TEXT)
    return [b"Hello, world!\n"]


def generator(environ, start_response):
    """start_response is called inside the first iteration; empty blocks are skipped."""
    yield b""
    start_response("201 Made", TEXT + [("X-From", "generator")])
    yield b""
    yield b"one "
    yield b"two"


def write(environ, start_response):
    """write() precedes what is returned."""
    put = start_response("200 OK", TEXT)
    put(b"written ")
    put(b"twice ")
    return [b"returned"]


def exc_info_before(environ, start_response):
    """A second start_response with exc_info replaces the first while nothing has been sent."""
    start_response("200 OK", TEXT)
    try:
        raise ValueError("early")
    except ValueError:
        start_response("503 Replaced", [("X-Replaced", "yes")], sys.exc_info())
    return [b"replaced"]


def exc_info_after(environ, start_response):
    """Once a byte was sent, start_response with exc_info raises it again."""
    put = start_response("200 OK", TEXT)
    put(b"sent")
    try:
        raise ValueError("late")
    except ValueError:
        start_response("500 Too Late", TEXT, sys.exc_info())
    return [b"never"]


def twice(environ, start_response):
    """A second start_response without exc_info raises AssertionError."""
    start_response("200 OK", TEXT)
    try:
        start_response("404 Not Found", TEXT)
    except AssertionError:
        return [b"AssertionError"]
    return [b"no error"]


def raise_before(environ, start_response):
    """Raises before anything was sent."""
    raise RuntimeError("before")


def raise_after(environ, start_response):
    """Raises in mid-body."""
    start_response("200 OK", TEXT)
    return Closing([b"some", RuntimeError("after")])


def raise_base(environ, start_response):
    """Raises what is not an Exception: sys.exit() is not the worker's end."""
    sys.exit("application called sys.exit")


def close_count(environ, start_response):
    """How often a Closing was closed in this worker; with ?add= one more."""
    start_response("200 OK", TEXT)
    if "add" in environ["QUERY_STRING"]:
        return Closing([b"x"])
    return [str(closed["count"]).encode()]


def close_raises(environ, start_response):
    """close() itself raises; the client has everything by then."""
    class Bad(Closing):
        def close(self):
            super().close()
            raise RuntimeError("close failed")
    start_response("200 OK", TEXT)
    return Bad([b"fine"])


def slow_close(environ, start_response):
    """The client has the whole answer long before close() returns."""
    class Slow(Closing):
        def close(self):
            time.sleep(0.5)
            super().close()
    start_response("200 OK", TEXT + [("Content-Length", "4")])
    return Slow([b"four"])


def too_long(environ, start_response):
    """More body than Content-Length."""
    start_response("200 OK", TEXT + [("Content-Length", "4")])
    return Closing([b"four", b"more", b"and more"])


def too_short(environ, start_response):
    """Less body than Content-Length."""
    start_response("200 OK", TEXT + [("Content-Length", "40")])
    return Closing([b"four"])


def too_short_list(environ, start_response):
    """Less body than Content-Length, known before anything is sent."""
    start_response("200 OK", TEXT + [("Content-Length", "40")])
    return [b"four"]


def bad_length(environ, start_response):
    """A Content-Length that is no number."""
    start_response("200 OK", TEXT + [("Content-Length", "+4")])
    return [b"four"]


def no_start_response(environ, start_response):
    """Never calls start_response."""
    return [b"body"]


def bad_status(environ, start_response):
    """A status out of ?status=."""
    start_response(argument(environ, "status", "OK"), TEXT)
    return [b"never"]


def bytes_status(environ, start_response):
    """A status of the wrong type."""
    start_response(b"200 OK", TEXT)
    return [b"never"]


def bad_header(environ, start_response):
    """A header value that is not a str."""
    start_response("200 OK", [("X-Number", 7)])
    return [b"never"]


def bad_header_name(environ, start_response):
    """A header name that is not a token."""
    start_response("200 OK", [("X Name", "v")])
    return [b"never"]


def header_tuple(environ, start_response):
    """Headers that are not a list."""
    start_response("200 OK", (("X-A", "b"),))
    return [b"never"]


def crlf_header(environ, start_response):
    """A header value with a line break: response splitting."""
    start_response("200 OK", [("X-A", "b\r\nSet-Cookie: stolen=1")])
    return [b"never"]


def latin1_header(environ, start_response):
    """A header value and a reason beyond ASCII."""
    start_response("200 Tr\u00e8s bien", TEXT + [("X-Name", "Andr\u00e9")])
    return [b"ok"]


def hop_by_hop(environ, start_response):
    """Headers that belong to the connection."""
    start_response("200 OK", TEXT + [("Connection", "close"), ("Transfer-Encoding", "chunked"), ("X-Kept", "yes")])
    return [b"ok"]


def not_bytes(environ, start_response):
    """A str in the body."""
    start_response("200 OK", TEXT)
    return ["text"]


def not_bytes_later(environ, start_response):
    """A str after bytes were sent."""
    start_response("200 OK", TEXT)
    return Closing([b"bytes", "text"])


def plain_bytes(environ, start_response):
    """bytes where a list of bytes belongs."""
    start_response("200 OK", TEXT)
    return b"plain"


def empty(environ, start_response):
    """No body at all."""
    start_response("200 OK", TEXT)
    return []


def multi_chunks(environ, start_response):
    """A list of several blocks."""
    start_response("200 OK", TEXT)
    return [b"a", b"", b"bc", b"def"]


def head(environ, start_response):
    """A body with its length, for HEAD and GET."""
    start_response("200 OK", TEXT + [("Content-Length", "5")])
    return [b"12345"]


def no_content(environ, start_response):
    """204 has no body, whatever is returned."""
    start_response("204 No Content", [("Content-Length", "3")])
    return [b"abc"]


def not_modified(environ, start_response):
    """304 has no body."""
    start_response("304 Not Modified", [("ETag", '"1"')])
    return []


def sleep(environ, start_response):
    """Sleeps ?ms= and answers."""
    time.sleep(argument(environ, "ms", 100) / 1000)
    start_response("200 OK", TEXT)
    return [b"slept"]


def spin(environ, start_response):
    """Computes for ?ms=, holding the GIL like any Python code."""
    end = time.monotonic() + argument(environ, "ms", 100) / 1000
    while time.monotonic() < end:
        pass
    start_response("200 OK", TEXT)
    return [b"spun"]


def echo(environ, start_response):
    """The whole body back, in one block."""
    body = environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", environ.get("CONTENT_TYPE", "application/octet-stream"))])
    return [body]


def stream_echo(environ, start_response):
    """The body back as it comes."""
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    return iter(lambda: environ["wsgi.input"].read(65536), b"")


def count(environ, start_response):
    """Reads the whole body in ?block= portions and tells its length."""
    length, block = 0, argument(environ, "block", 65536)
    while data := environ["wsgi.input"].read(block):
        length += len(data)
    start_response("200 OK", TEXT)
    return [str(length).encode()]


def unread(environ, start_response):
    """Ignores its body."""
    start_response("200 OK", TEXT)
    return [b"unread"]


def read_aborted(environ, start_response):
    """Tells in the log what reading raised."""
    try:
        data = environ["wsgi.input"].read()
        print(f"read {len(data)} bytes")
    except OSError as error:
        print(f"read raised {type(error).__name__}")
        raise
    start_response("200 OK", TEXT)
    return [b"read"]


def sse(environ, start_response):
    """?n= events, ?ms= apart."""
    start_response("200 OK", [("Content-Type", "text/event-stream")])
    def events():
        for number in range(argument(environ, "n", 3)):
            yield f"data: {number}\n\n".encode()
            time.sleep(argument(environ, "ms", 100) / 1000)
    return Closing(events())


def tell(environ, start_response):
    """Lets one that waits for a word go on."""
    word.release()
    start_response("200 OK", TEXT)
    return [b"told"]


def wait_for_word():
    if not word.acquire(timeout=60):
        raise TimeoutError("nobody said a word")


def events_when_told(environ, start_response):
    """An event at once, and one more for each word."""
    start_response("200 OK", [("Content-Type", "text/event-stream")])
    def events():
        yield b"data: 0\n\n"
        for number in range(1, 3):
            wait_for_word()
            yield f"data: {number}\n\n".encode()
    return Closing(events())


def write_when_told(environ, start_response):
    """write() has sent its bytes when it returns; the rest comes after a word."""
    start_response("200 OK", TEXT)(b"written ")
    wait_for_word()
    return [b"returned"]


def raise_when_told(environ, start_response):
    """Raises in mid-body, once the client has seen the beginning."""
    start_response("200 OK", TEXT)
    def blocks():
        yield b"some"
        wait_for_word()
        raise RuntimeError("after")
    return Closing(blocks())


def short_when_told(environ, start_response):
    """Ends before its Content-Length, once the client has seen the beginning."""
    start_response("200 OK", TEXT + [("Content-Length", "40")])
    def blocks():
        yield b"four"
        wait_for_word()
    return Closing(blocks())


def never_first(environ, start_response):
    """Computes for ever before its first block."""
    start_response("200 OK", TEXT)
    def blocks():
        while True:
            time.sleep(0.01)
        yield b""
    return Closing(blocks())


def own_date(environ, start_response):
    """Says itself what time it is and who it is."""
    start_response("200 OK", TEXT + [("Date", "Thu, 01 Jan 1970 00:00:00 GMT"), ("Server", "own")])
    return [b"dated"]


def big(environ, start_response):
    """?mib= MiB in one block."""
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    return [b"0123456789abcdef" * (65536 * argument(environ, "mib", 1))]


def big_stream(environ, start_response):
    """?mib= MiB in blocks of 64 KiB, without a length."""
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    return Closing(b"x" * 65536 for _ in range(16 * argument(environ, "mib", 1)))


def file_wrapper(environ, start_response):
    """A file from its current position through wsgi.file_wrapper."""
    file = io.BytesIO(b"skipped" + b"file" * 50000)
    file.seek(7)
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    return environ["wsgi.file_wrapper"](file, 8192)


def disk_file(environ, start_response):
    """A file on disk of ?kib= KiB from byte ?at=, opened as ?kind= says, with ?length= as its Content-Length."""
    content = bytes(range(251)) * (1024 * argument(environ, "kib", 1024) // 251 + 1)
    kind, at = argument(environ, "kind", "plain"), argument(environ, "at", 0)
    named = tempfile.NamedTemporaryFile()
    if kind == "gzip":
        with gzip.GzipFile(fileobj=named, mode="wb") as packed:
            packed.write(content)
        named.flush()
        file = gzip.open(named.name)
    else:
        named.write(content)
        named.flush()
        file = {"plain": lambda: open(named.name, "rb"), "raw": lambda: open(named.name, "rb", 0), "named": lambda: named}[kind]()
    file.seek(at)
    if at:
        file.read(1)
    length = argument(environ, "length", 0)
    start_response("200 OK", [("Content-Length", str(length))] if length else [])
    return environ["wsgi.file_wrapper"](file)


def file_after_write(environ, start_response):
    """Some bytes by write(), then a file."""
    start_response("200 OK", [])(b"first ")
    file = tempfile.TemporaryFile()
    file.write(b"x" * 200_000)
    file.seek(0)
    return environ["wsgi.file_wrapper"](file)


def shrinking_file(environ, start_response):
    """A file that is cut after it was handed over."""
    path = os.path.join(os.environ["PORTCULLIS_DATA_DIR"], "shrinking")
    with open(path, "wb") as file:
        file.truncate(argument(environ, "mib", 64) << 20)
    start_response("200 OK", [])
    wrapped = environ["wsgi.file_wrapper"](open(path, "rb"))
    def cut():
        os.truncate(path, 1 << 20)
        print("the file was cut")
    threading.Timer(0.05, cut).start()
    return wrapped


def hold_gil(environ, start_response):
    """Sleeps ?s= seconds in C code that does not let go of the interpreter lock."""
    ctypes.PyDLL(None).sleep(argument(environ, "s", 60))
    start_response("200 OK", TEXT)
    return [b"back"]


def grow(environ, start_response):
    """Keeps ?mib= MiB for ever."""
    kept.append(b"\1" * (argument(environ, "mib", 1) << 20))
    start_response("200 OK", TEXT)
    return [b"grown"]


def print_(environ, start_response):
    """One line to stdout and one to stderr."""
    print("printed", "to", "stdout")
    print("printed to stderr", file=sys.stderr)
    sys.stdout.buffer.write(b"bytes to stdout\n")
    os.write(2, b"raw to stderr\n")
    start_response("200 OK", TEXT)
    return [b"printed"]


def errors(environ, start_response):
    """Lines to wsgi.errors: whole, in pieces, from a thread, and after the request."""
    stream = environ["wsgi.errors"]
    stream.write("whole line\n")
    stream.write("in ")
    stream.write("pieces\nand")
    stream.writelines([" a", " rest\n"])
    thread = threading.Thread(target=lambda: print("from a thread", file=stream), name="helper")
    thread.start()
    thread.join()
    threading.Timer(0.2, lambda: print("after the request", file=stream)).start()
    stream.write("without newline")
    start_response("200 OK", TEXT)
    return [b"logged"]


def readline(environ, start_response):
    """What the reading methods of wsgi.input give, as JSON."""
    stream = environ["wsgi.input"]
    result = [stream.readline(), stream.readline(3), stream.readline(), stream.read(2), stream.read(0)]
    result += [stream.readlines(1)[:1] == [] and b"" or b"lines", next(stream, b"end"), stream.read(), stream.read(), stream.readline()]
    body = json.dumps([part.decode("latin-1") for part in result]).encode()
    start_response("200 OK", [("Content-Type", "application/json")])
    return [body]


def text_wrapper(environ, start_response):
    """The body through io.TextIOWrapper and io.BufferedReader."""
    lines = list(io.TextIOWrapper(io.BufferedReader(environ["wsgi.input"]), "utf-8"))
    start_response("200 OK", TEXT)
    return [str(len(lines)).encode()]


def thread_local(environ, start_response):
    """How many requests this thread has seen, and its name."""
    local.count = getattr(local, "count", 0) + 1
    thread = threading.current_thread()
    text = f"{local.count} {thread.name} {isinstance(thread, threading._DummyThread)}"
    start_response("200 OK", TEXT)
    return [text.encode()]


def pid(environ, start_response):
    """The worker's process id."""
    start_response("200 OK", TEXT)
    return [str(os.getpid()).encode()]


def fork(environ, start_response):
    """Forks a child that prints and leaves; the parent answers."""
    child = os.fork()
    if child == 0:
        print("from the child")
        os._exit(7)
    _, status = os.waitpid(child, 0)
    start_response("200 OK", TEXT)
    return [str(os.waitstatus_to_exitcode(status)).encode()]


def exit_(environ, start_response):
    """The worker leaves without a word."""
    os._exit(5)


def segfault(environ, start_response):
    """The worker crashes."""
    ctypes.string_at(0)


def stuck(environ, start_response):
    """Waits for ever, in Python code that an interruption reaches."""
    while True:
        time.sleep(0.01)


def stuck_hard(environ, start_response):
    """Waits for ever where no interruption reaches it."""
    while True:
        try:
            time.sleep(1000)
        except BaseException:
            pass


PATHS = {
    "/" + name.rstrip("_"): function
    for name, function in list(globals().items())
    if callable(function) and not isinstance(function, type) and name not in ("argument", "parse_qs", "wait_for_word")
}
PATHS["/"] = hello
PATHS["/204"] = no_content
PATHS["/304"] = not_modified


def missing(environ, start_response):
    start_response("404 Not Found", TEXT)
    return [b"no such behaviour"]


def application(environ, start_response):
    return PATHS.get(environ["PATH_INFO"], missing)(environ, start_response)
