"""Falcon."""
import zlib

import falcon

import word


class Page:
    def on_get(self, request, response):
        response.text = f"page for {request.env['REMOTE_USER']}"


class Go:
    def on_get(self, request, response):
        raise falcon.HTTPFound(request.root_path + "/page")


class Form:
    def on_post(self, request, response):
        response.text = f"form of {request.get_media()['name']}"


class Upload:
    def on_post(self, request, response):
        for part in request.get_media():
            if part.name == "file":
                response.text = f"{part.filename} {zlib.crc32(part.stream.read()):08x}"


class Stream:
    def on_get(self, request, response):
        response.content_type = "text/plain"
        response.stream = word.pieces()


class Tell:
    def on_get(self, request, response):
        word.say()
        response.text = "told"


application = falcon.App()
for resource in (Page, Go, Form, Upload, Stream, Tell):
    application.add_route(f"/{resource.__name__.lower()}", resource())
