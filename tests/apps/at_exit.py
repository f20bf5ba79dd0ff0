"""Says so when `atexit` runs, and when a thread of its own is joined at shutdown."""
import atexit
import threading

stopped = threading.Event()
threading.Thread(target=lambda: (stopped.wait(), print("own thread has ended")), name="own").start()
threading._register_atexit(stopped.set)
atexit.register(lambda: print("atexit has run"))


def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"running"]
