"""Server-sent events: /stream waits for /send and passes on what it was given, with a comment every second, so that it
notices clients that have left; everything else tells how many streams are open."""
import threading
import time

changed = threading.Condition()
state = {"number": 0, "open": 0, "sent": 0.0}


def stream(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/event-stream")])
    with changed:
        state["open"] += 1
        seen = state["number"]
    try:
        yield b": open\n\n"
        while True:
            with changed:
                news = changed.wait_for(lambda: state["number"] != seen, timeout=1)
                seen, sent = state["number"], state["sent"]
            if not news:
                yield b": still here\n\n"
                continue
            yield f"id: {seen}\ndata: {sent}\n\n".encode()
    finally:
        with changed:
            state["open"] -= 1


def application(environ, start_response):
    if environ["PATH_INFO"] == "/stream":
        return stream(environ, start_response)
    with changed:
        if environ["PATH_INFO"] == "/send":
            state["number"] += 1
            state["sent"] = time.monotonic()
            changed.notify_all()
        body = str(state["open"]).encode()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [body]
