"""What makes a Django project at home behind the gate: its users, and cookies under its own path."""

from django.conf import settings
from django.contrib.auth.backends import RemoteUserBackend


class GateBackend(RemoteUserBackend):
    """Creates users as they arrive. WIKI_ADMINS says, at every request, who is a superuser."""

    def clean_username(self, username):
        return username.encode("latin-1").decode()  # CGI values carry UTF-8 bytes as latin-1

    def configure_user(self, request, user, created=True):
        admin = user.get_username() in settings.WIKI_ADMINS
        if (user.is_staff, user.is_superuser) != (admin, admin):
            user.is_staff = user.is_superuser = admin
            user.save(update_fields=["is_staff", "is_superuser"])
        return user

    def get_user(self, user_id):
        user = super().get_user(user_id)
        return user and self.configure_user(None, user, created=False)


class CookiesUnderPrefix:
    """Django's cookie paths are settings, but where the project is mounted is known per request."""

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        response = self.get_response(request)
        for cookie in response.cookies.values():
            cookie["path"] = request.META.get("SCRIPT_NAME") or "/"
        return response
