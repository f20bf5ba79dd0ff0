"""FastAPI, which speaks ASGI; the gate's own words are in `scope["wsgi_environ"]`."""
import asyncio
import zlib

from fastapi import BackgroundTasks, FastAPI, Form, HTTPException, Request, UploadFile
from fastapi.responses import PlainTextResponse, RedirectResponse, StreamingResponse

import word

app = FastAPI(title="Through the gate", default_response_class=PlainTextResponse)


@app.get("/page", name="page")
async def page(request: Request):
    return f"page for {request.scope['wsgi_environ']['REMOTE_USER']}"


@app.get("/user")
async def user(request: Request):
    known = request.scope["wsgi_environ"]["portcullis.user"]
    return f"{known['name']} {','.join(known['roles'])} {request.client.host} {request.url.scheme}"


@app.get("/go")
async def go(request: Request):
    return RedirectResponse(request.url_for("page"), status_code=302)


@app.post("/form")
async def form(name: str = Form()):
    return f"form of {name}"


@app.post("/upload")
async def upload(file: UploadFile):
    return f"{file.filename} {zlib.crc32(await file.read()):08x}"


@app.post("/body")
async def body(request: Request):
    return str(len(await request.body()))


@app.get("/stream")
async def stream():
    return StreamingResponse(word.pieces(), media_type="text/plain")


@app.get("/tell")
async def tell():
    word.say()
    return "told"


@app.get("/background")
async def background(tasks: BackgroundTasks):
    tasks.add_task(print, "after the answer")
    return "answered"


@app.get("/raise")
async def raises():
    raise RuntimeError("before the answer")


@app.get("/missing")
async def missing():
    raise HTTPException(404, "nothing here")


@app.get("/endless")
async def endless():
    async def events():
        try:
            while True:
                yield b"data: x\n\n"
                await asyncio.sleep(0.01)
        finally:
            print("the stream was left")
    return StreamingResponse(events(), media_type="text/event-stream")


@app.get("/slow")
async def slow():
    try:
        await asyncio.sleep(600)
    except asyncio.CancelledError:
        print("the wait was cancelled")
        raise
