"""A Django application whose own patterns say what is protected: /admin and below. It tells what it was called for."""
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.http import JsonResponse
from django.urls import re_path

settings.configure(SECRET_KEY="x" * 50, ALLOWED_HOSTS=["localhost"], ROOT_URLCONF=__name__, MIDDLEWARE=[], DEBUG=False)


def tell(request):
    environ = request.META
    return measured(
        {
            "script": environ["SCRIPT_NAME"],
            "path": environ["oracle.path"],
            "request": environ["portcullis.request_id"],
            "number": environ.get("HTTP_X_NUMBER"),
        }
    )


def measured(document):
    answer = JsonResponse(document)
    answer["Content-Length"] = str(len(answer.content))
    return answer


def protected(request):
    answer = tell(request)
    answer["X-Protected"] = "yes"
    return answer


def anything(request):
    return tell(request)


def environ(request):
    seen = {key: value for key, value in request.META.items() if isinstance(value, str)}
    url = request.build_absolute_uri()
    return measured({"values": seen, "types": {}, "headers": sorted(request.headers.items()), "url": url})


# As projects write them: `$` is before a newline at the end, too.
urlpatterns = [
    re_path(r"^environ$", environ),
    re_path(r"^admin(?:/.*)?$", protected),
    re_path(r"(?s)^.*$", anything),
]
django = WSGIHandler()


def application(environ, start_response):
    # Django writes text over the bytes that WSGI says, and `/` over nothing.
    environ["oracle.path"] = environ["PATH_INFO"]
    return django(environ, start_response)
