"""An ASGI application as a WSGI one: a2wsgi, and what it leaves open.

a2wsgi runs the application in an event loop in a thread of its own and passes messages to and fro. Left to itself it
waits where no time-out reaches it, and for ever if the application returns without an answer; it leaves the
application's task behind when the client goes away; it answers an exception with a page of its own that no log knows
of, and may take one in mid-stream for the end. Here all of these end as they do with WSGI.

The loop is started by the first request and not by the import: a thread does not survive a fork.
"""

import asyncio
import os
import queue
import threading
import traceback

from a2wsgi.asgi import ASGIResponder

# Python raises a time-out in a thread between two of its steps, so a wait has to be one step after the other: short
# against the 5 seconds after which the worker is replaced, long against the cost of waking up.
STEP = 1.0


UNFINISHED = "the ASGI application returned before its answer was complete"


class Messages:
    """Where the thread of a request waits for what the application sends."""

    def __init__(self, responder):
        self.responder, self.queue = responder, queue.SimpleQueue()

    def set(self, message):
        self.queue.put(message)

    def wait(self):
        while True:
            try:
                return self.queue.get(timeout=STEP)
            except queue.Empty:
                if self.responder.asgi_done.is_set() and self.queue.empty():
                    raise self.responder.failure() or RuntimeError(UNFINISHED) from None


class Responder(ASGIResponder):
    """One request; remembers the task that runs it."""

    task = None

    def __init__(self, application, loop):
        super().__init__(application, loop)
        self.sync_event = Messages(self)

    async def start_asgi_app(self, environ):
        self.task = await super().start_asgi_app(environ)
        return self.task

    def failure(self):
        """What the application raised, once it is done."""
        return None if self.task.cancelled() else self.task.exception()

    def cancel(self):
        if self.task is not None:
            self.loop.call_soon_threadsafe(self.task.cancel)


class Answer:
    """The iterable: whatever ends it ends the application's task too."""

    def __init__(self, responder, environ, start_response):
        self.responder, self.errors = responder, environ["wsgi.errors"]
        self.blocks = responder(environ, start_response)

    def __iter__(self):
        yield from self.blocks
        failure = self.responder.failure()
        if not self.responder.wsgi_should_stop:
            raise failure or RuntimeError(UNFINISHED)
        if failure:  # too late for the client, who has a whole answer
            traceback.print_exception(failure, file=self.errors)

    def close(self):
        self.blocks.close()
        self.responder.cancel()


class Application:
    """The WSGI callable."""

    def __init__(self, application):
        self.application = application
        self.lock = threading.Lock()
        self.loop = self.process = None

    def __call__(self, environ, start_response):
        def start(status, headers, exc_info=None):
            if exc_info:  # the application raised before its answer: the gate answers and logs, as for WSGI
                raise exc_info[1]
            return start_response(status, headers)

        responder = Responder(self.application, self.running_loop())
        return Answer(responder, environ, start)

    def running_loop(self):
        with self.lock:
            if self.process != os.getpid():
                self.loop, self.process = asyncio.new_event_loop(), os.getpid()
                threading.Thread(target=self.loop.run_forever, name="asgi", daemon=True).start()
            return self.loop
