"""Django, the whole project in one file."""
import zlib

from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpResponse, StreamingHttpResponse
from django.shortcuts import redirect
from django.urls import path

import word

settings.configure(SECRET_KEY="x" * 50, ALLOWED_HOSTS=["localhost"], ROOT_URLCONF=__name__, MIDDLEWARE=[], DEBUG=False)


def page(request):
    return HttpResponse(f"page for {request.META['REMOTE_USER']}")


def go(request):
    return redirect("page")


def form(request):
    return HttpResponse(f"form of {request.POST['name']}")


def upload(request):
    file = request.FILES["file"]
    checksum = 0
    for chunk in file.chunks():
        checksum = zlib.crc32(chunk, checksum)
    return HttpResponse(f"{file.name} {checksum:08x}")


def stream(request):
    return StreamingHttpResponse(word.pieces(), content_type="text/plain")


def tell(request):
    word.say()
    return HttpResponse("told")


urlpatterns = [path(view.__name__, view, name=view.__name__) for view in (page, go, form, upload, stream, tell)]

import django

django.setup()
application = WSGIHandler()
