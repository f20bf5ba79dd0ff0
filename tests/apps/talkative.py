"""Says something in every way there is; imports `logging` only when it is asked to."""
import subprocess
import sys
import threading
import warnings

TEXT = [("Content-Type", "text/plain; charset=utf-8")]


def bare(environ):
    """Whether anybody has imported logging so far."""
    return str("logging" in sys.modules)


def said(environ):
    print("a printed line")
    print("to stderr", file=sys.stderr)
    print("environ's own", file=environ["wsgi.errors"])
    warnings.warn("this is old")
    print("never ended", end="")
    return "said"


def logged(environ):
    import logging
    log = logging.getLogger("talkative")
    log.warning("by the last resort")
    logging.basicConfig(level=1, format="%(name)s %(message)s")
    for level in (5, 10, 20, 25, 30, 40, 50):
        log.log(level, "level %d", level)
    handler = logging.StreamHandler(environ["wsgi.errors"])
    log.addHandler(handler)
    try:
        {}["missing"]
    except KeyError:
        log.exception("two\nlines")
    log.removeHandler(handler)
    thread = threading.Thread(target=lambda: log.error("from a thread of its own"), name="helper")
    thread.start()
    thread.join()
    return "logged"


def long(environ):
    import logging
    logging.getLogger("talkative").error("x" * 1_000_000)
    return "long"


def flood(environ):
    """Prints for ever."""
    while True:
        print("again and again and again " * 4)


def flood_in_threads(environ):
    for number in range(3):
        threading.Thread(target=flood, args=(environ,), name=f"flood-{number}", daemon=True).start()
    return "flooding"


def flood_by_child(environ):
    """A child process writes as fast as the pipe takes it, until that breaks."""
    subprocess.Popen(["yes", "x" * 4000])
    return "flooding"


PATHS = {f"/{function.__name__}": function for function in (bare, said, logged, long, flood, flood_in_threads, flood_by_child)}


def application(environ, start_response):
    answer = PATHS[environ["PATH_INFO"]](environ)
    start_response("200 OK", TEXT)
    return [answer.encode()]
