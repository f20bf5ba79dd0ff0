"""An application that can be driven mad, and keeps a book of what it returned and closed."""
import ctypes
import itertools
import os
import random
import socket
import stat
import threading
import time
from urllib.parse import parse_qs

BOOK = os.open(os.path.join(os.environ["PORTCULLIS_DATA_DIR"], "book"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
numbers = itertools.count()
kept = []


def note(what, number):
    os.write(BOOK, f"{what} {os.getpid()} {number}\n".encode())


class Booked:
    """An iterable whose end is noted."""

    def __init__(self, blocks):
        self.blocks, self.number = iter(blocks), next(numbers)
        note("returned", self.number)

    def __iter__(self):
        return self

    def __next__(self):
        return next(self.blocks)

    def close(self):
        note("closed", self.number)


def hello(environ, query):
    return [b"hello"]


def stream(environ, query):
    def blocks():
        for _ in range(20):
            time.sleep(0.002)
            yield b"x" * 5000
    return Booked(blocks())


def endless(environ, query):
    return Booked(itertools.repeat(b"y" * 65536))


def upload(environ, query):
    total = 0
    while data := environ["wsgi.input"].read(8192):
        total += len(data)
    return Booked([str(total).encode()])


def grow(environ, query):
    kept.append(b"1" * (int(query["mib"][0]) << 20))
    return [b"grown"]


def hold_gil(environ, query):
    ctypes.PyDLL(None).sleep(30)
    return [b"back"]


def flood(environ, query):
    """Writes what looks like frames, and what does not, to every socket there is."""
    def write():
        for number in os.listdir("/proc/self/fd"):
            try:
                if stat.S_ISSOCK(os.fstat(int(number)).st_mode):
                    end = socket.socket(fileno=os.dup(int(number)))
                    kind, length = random.choice([16, 17, 18, 19, 20, 21, 22, 23, 50, 99]), random.randrange(40)
                    frame = length.to_bytes(4, "little") + random.randbytes(4) + bytes([kind]) + random.randbytes(length)
                    end.send(frame * random.randrange(1, 200), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
                    end.detach()
            except OSError:
                pass
    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [b"flooded"]


PATHS = {"/" + view.__name__: view for view in (hello, stream, endless, upload, grow, hold_gil, flood)}


def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    return PATHS[environ["PATH_INFO"]](environ, parse_qs(environ["QUERY_STRING"]))
