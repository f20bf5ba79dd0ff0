"""A stream whose second piece waits until somebody says a word: who gets the first one gets it before the second is made."""
import threading

said = threading.Semaphore(0)


def pieces():
    yield b"one\n"
    if not said.acquire(timeout=60):
        raise TimeoutError("nobody said a word")
    yield b"two\n"


def say():
    said.release()
