"""Tells who imported it and who answers."""
import atexit
import ctypes
import gc
import json
import os
import threading
import time

IMPORTED_BY = os.getpid()
print("imported by", IMPORTED_BY)
atexit.register(lambda: print("atexit in", os.getpid()))


def application(environ, start_response):
    if environ["PATH_INFO"] == "/sleep":
        for _ in range(6000):
            time.sleep(0.01)
    if environ["PATH_INFO"] == "/hold_gil":
        hold_gil()
    print("printed by", os.getpid())
    os.write(1, b"written by %d\n" % os.getpid())
    about = {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "imported_by": IMPORTED_BY,
        "frozen": gc.get_freeze_count(),
        "main_thread_lives": threading.main_thread().is_alive(),
    }
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(about).encode()]


def hold_gil():
    ctypes.PyDLL(None).sleep(50)
