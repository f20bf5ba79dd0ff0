"""Bottle."""
import zlib

import bottle

import word

application = bottle.Bottle()


@application.get("/page", name="page")
def page():
    return f"page for {bottle.request.environ['REMOTE_USER']}"


@application.get("/go")
def go():
    bottle.redirect(application.get_url("page"))


@application.post("/form")
def form():
    return f"form of {bottle.request.forms.name}"


@application.post("/upload")
def upload():
    upload = bottle.request.files["file"]
    return f"{upload.raw_filename} {zlib.crc32(upload.file.read()):08x}"


@application.get("/stream")
def stream():
    bottle.response.content_type = "text/plain"
    return word.pieces()


@application.get("/tell")
def tell():
    word.say()
    return "told"
