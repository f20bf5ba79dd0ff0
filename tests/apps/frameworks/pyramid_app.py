"""Pyramid, by a factory."""
import zlib

from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPFound
from pyramid.response import Response

import word


def page(request):
    return Response(f"page for {request.remote_user}")


def go(request):
    return HTTPFound(request.route_url("page"))


def form(request):
    return Response(f"form of {request.POST['name']}")


def upload(request):
    field = request.POST["file"]
    return Response(f"{field.filename} {zlib.crc32(field.file.read()):08x}")


def stream(request):
    return Response(app_iter=word.pieces(), content_type="text/plain")


def tell(request):
    word.say()
    return Response("told")


def create_app():
    with Configurator() as config:
        for view in (page, go, form, upload, stream, tell):
            config.add_route(view.__name__, f"/{view.__name__}")
            config.add_view(view, route_name=view.__name__)
    return config.make_wsgi_app()
