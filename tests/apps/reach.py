"""What applications do beside answering: pools, programs, threads, signals, and a client that reports events and flushes them at exit."""
import atexit
import multiprocessing
import os
import queue
import signal
import subprocess
import sys
import threading

SIGNALLED = threading.Event()
signal.signal(signal.SIGUSR1, lambda number, frame: SIGNALLED.set())


class Reporter:
    """As clients of error trackers do it: a background thread sends, and the exit waits for it."""

    def __init__(self):
        self.events = queue.Queue()
        self.sent = 0
        self.thread = threading.Thread(target=self.run, name="reporter", daemon=True)
        self.thread.start()
        atexit.register(self.flush)

    def run(self):
        while True:
            if self.events.get() is None:
                return
            self.sent += 1

    def flush(self):
        self.events.put(None)
        self.thread.join(5)
        print("flushed %d events, alive: %s" % (self.sent, self.thread.is_alive()))


REPORTER = Reporter()


def square(number):
    return number * number


def pool(method):
    with multiprocessing.get_context(method).Pool(2) as workers:
        return sum(workers.map(square, range(10)))


def ran():
    child = subprocess.run([sys.executable, "-c", "print(6 * 7)"], capture_output=True, check=True)
    return child.stdout.decode().strip()


def shell():
    return subprocess.run("echo $((6 * 7))", shell=True, capture_output=True, check=True).stdout.decode().strip()


def manager():
    with multiprocessing.Manager() as shared:
        values = shared.list([1, 2, 3])
        return sum(values)


ACTS = {
    "/fork": lambda: pool("fork"),
    "/spawn": lambda: pool("spawn"),
    "/manager": manager,
    "/subprocess": ran,
    "/shell": shell,
    "/event": lambda: REPORTER.events.put("event"),
    "/signal": lambda: os.kill(os.getpid(), signal.SIGUSR1),
    "/signalled": lambda: SIGNALLED.wait(20),
    "/version": lambda: sys.version.split()[0],
    "/environment": lambda: "%s %s" % (os.environ.get("VIRTUAL_ENV") or os.environ.get("CONDA_PREFIX"), os.environ["PATH"].split(":")[0]),
    "/executable": lambda: sys.executable,
}


def application(environ, start_response):
    text = str(ACTS[environ["PATH_INFO"]]())
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [text.encode()]
