"""ASGI callables without a framework, good and bad, and WSGI callables that are taken for one."""


async def plain(scope, receive, send):
    """/: answers; /raise: raises; /nothing: returns without a word; /broken and /unfinished: in mid-stream."""
    path = scope["path"].removeprefix(scope["root_path"])
    if path == "/raise":
        raise RuntimeError("before")
    if path == "/nothing":
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    if path in ("/broken", "/unfinished"):
        await send({"type": "http.response.body", "body": b"some", "more_body": True})
        if path == "/broken":
            raise RuntimeError("after")
        return
    await send({"type": "http.response.body", "body": b"plain"})


class Instance:
    async def __call__(self, scope, receive, send):
        await plain(scope, receive, send)


instance = Instance()


def create_app():
    return Instance()


async def confused(environ, start_response):
    start_response("200 OK", [])
    return []


def wsgi(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"wsgi"]
