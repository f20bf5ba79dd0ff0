import os
import secrets
import tempfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

BASE = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("PORTCULLIS_DATA_DIR") or BASE / "data").resolve()
DATA.mkdir(mode=0o700, parents=True, exist_ok=True)


def names(variable):
    return [name.strip() for name in os.environ.get(variable, "").split(",") if name.strip()]


def secret_key(path):
    if not path.exists():
        handle, draft = tempfile.mkstemp(dir=DATA)  # mode 0600
        with open(handle, "w") as file:
            file.write(secrets.token_hex(32))
        try:
            os.link(draft, path)  # workers start together: the first key wins, and it is never half written
        except FileExistsError:
            pass
        finally:
            os.unlink(draft)
    return path.read_text()


def database(url):
    if url.scheme == "sqlite":
        # Taking the write lock at BEGIN makes two writers wait for each other instead of failing.
        options = {"timeout": 10, "transaction_mode": "IMMEDIATE", "init_command": "PRAGMA journal_mode = WAL"}
        return {"ENGINE": "django.db.backends.sqlite3", "NAME": unquote(url.path[1:]), "OPTIONS": options}
    place = {"HOST": url.hostname or "", "PORT": url.port or "", "NAME": unquote(url.path[1:])}
    account = {"USER": unquote(url.username or ""), "PASSWORD": unquote(url.password or "")}
    return {"ENGINE": "django.db.backends.postgresql"} | place | account  # needs psycopg in the virtualenv


SECRET_KEY = secret_key(DATA / "wiki-secret.key")
DATABASES = {"default": database(urlsplit(os.environ.get("DATABASE_URL") or f"sqlite:///{DATA}/database.sqlite3"))}
DATABASES["default"]["CONN_MAX_AGE"] = None
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

DEBUG = False
ALLOWED_HOSTS = ["localhost", "127.0.0.1", "[::1]", ".localhost", *names("WIKI_HOSTS")]

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "pages",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "wiki.gate.CookiesUnderPrefix",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.auth.middleware.RemoteUserMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "wiki.urls"
WSGI_APPLICATION = "wiki.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

# The gate says who is asking. The session only remembers it, so a signed cookie is enough.
AUTHENTICATION_BACKENDS = ["wiki.gate.GateBackend"]
WIKI_ADMINS = names("WIKI_ADMINS")
SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"
SESSION_EXPIRE_AT_BROWSER_CLOSE = True
SESSION_COOKIE_NAME = "wiki_session"
SESSION_COOKIE_SECURE = True
CSRF_COOKIE_NAME = "wiki_csrf"
CSRF_COOKIE_SECURE = True
CSRF_COOKIE_HTTPONLY = True

# Relative, so that Django puts the mount in front: /wiki/static/.
STATIC_URL = "static/"
STATIC_ROOT = BASE / "static"

USE_TZ = True
TIME_ZONE = "UTC"

# Without DEBUG, Django mails errors to nobody; standard error is the application's log.
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"stderr": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["stderr"], "level": "WARNING"},
}
