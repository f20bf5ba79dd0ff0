"""Flask."""
import zlib

from flask import Flask, Response, redirect, request, url_for

import word

application = Flask(__name__)


@application.get("/page")
def page():
    return f"page for {request.remote_user}"


@application.get("/go")
def go():
    return redirect(url_for("page"))


@application.post("/form")
def form():
    return f"form of {request.form['name']}"


@application.post("/upload")
def upload():
    file = request.files["file"]
    return f"{file.filename} {zlib.crc32(file.read()):08x}"


@application.get("/stream")
def stream():
    return Response(word.pieces(), mimetype="text/plain")


@application.get("/tell")
def tell():
    word.say()
    return "told"
