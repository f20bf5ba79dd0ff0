"""The smallest application behind the gate: greets the user and shows its environ."""

import json
import os
from html import escape
from urllib.parse import parse_qs

IDENTITY = {"REMOTE_USER", "AUTH_TYPE"}
REQUEST = {
    "REQUEST_METHOD", "REQUEST_URI", "SCRIPT_NAME", "PATH_INFO", "QUERY_STRING", "GATEWAY_INTERFACE",
    "SERVER_NAME", "SERVER_PORT", "SERVER_PROTOCOL", "SERVER_SOFTWARE",
    "REMOTE_ADDR", "REMOTE_HOST", "REMOTE_PORT",
}  # fmt: skip
# Shown by length only: a script in another page of this site could read them here otherwise.
CREDENTIALS = {"HTTP_AUTHORIZATION", "HTTP_COOKIE"}

FORMATS = {"text/html": "html", "application/json": "json", "text/plain": "text"}
PLAIN = b"Hello, World!\n"


def application(environ, start_response):
    path = environ.get("PATH_INFO", "")
    if path == "/plain":
        status, content_type, body = "200 OK", "text/plain; charset=utf-8", PLAIN
    elif path in ("", "/"):
        status = "200 OK"
        content_type, body = WRITERS[wanted_format(environ)](environ)
    else:
        status, content_type, body = "404 Not Found", "text/plain; charset=utf-8", b"There is nothing here.\n"

    headers = [
        ("Content-Type", content_type),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
        ("Vary", "Accept"),
    ]
    start_response(status, headers)
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]


def wanted_format(environ):
    """?format=... first, then the first known type in Accept; plain text for clients like curl."""
    asked = parse_qs(environ.get("QUERY_STRING", "")).get("format", [""])[0]
    if asked in WRITERS:
        return asked
    for item in environ.get("HTTP_ACCEPT", "").split(","):
        kind = item.partition(";")[0].strip().lower()
        if kind in FORMATS:
            return FORMATS[kind]
    return "text"


def group_of(key):
    if key in IDENTITY or key.startswith("portcullis."):
        return "Identity"
    if key in REQUEST:
        return "Request"
    if key.startswith(("HTTP_", "CONTENT_")):
        return "Headers"
    if key.startswith("wsgi."):
        return "WSGI"
    return "Other"


def groups(environ):
    found = {"Identity": {}, "Request": {}, "Headers": {}, "WSGI": {}, "Other": {}}
    for key in sorted(environ):
        group = group_of(key)
        # wsgiref copies the whole process environment in, which is nobody's business.
        if group == "Other" and key in os.environ:
            continue
        found[group][key] = readable(key, environ[key])
    return {name: entries for name, entries in found.items() if entries}


def readable(key, value):
    if key in CREDENTIALS:
        return f"({len(value)} characters, not shown)"
    if isinstance(value, str):
        return decoded(value)
    return value


def decoded(value):
    """CGI values carry bytes as latin-1; show them as the UTF-8 that they usually are."""
    try:
        return value.encode("latin-1").decode()
    except UnicodeError:
        return value


def name_of(environ):
    return decoded(environ.get("REMOTE_USER", ""))


def greeting(environ):
    return f"Hello, {name_of(environ) or 'whoever you are'}"


def shown(value):
    return value if isinstance(value, str) else repr(value)


def as_text(environ):
    lines = [greeting(environ), ""]
    for entries in groups(environ).values():
        lines += [f"{key} = {shown(value)}" for key, value in entries.items()]
    return "text/plain; charset=utf-8", encoded("\n".join(lines) + "\n")


def as_json(environ):
    answer = {"greeting": greeting(environ), "user": name_of(environ) or None, "environ": groups(environ)}
    return "application/json", encoded(json.dumps(answer, indent=2, default=repr) + "\n")


def as_html(environ):
    sections = "".join(
        f"<section><h2>{escape(group)}</h2><dl>{''.join(map(row, entries.items()))}</dl></section>"
        for group, entries in groups(environ).items()
    )
    page = PAGE.format(
        style=STYLE,
        greeting=escape(greeting(environ)),
        static=escape(decoded(environ.get("SCRIPT_NAME", "")) + "/static"),
        sections=sections,
    )
    return "text/html; charset=utf-8", encoded(page)


def row(entry):
    key, value = entry
    text = escape(shown(value)) or '<span class="empty">empty</span>'
    return f"<div><dt>{escape(key)}</dt><dd>{text}</dd></div>"


def encoded(text):
    return text.encode("utf-8", "backslashreplace")


WRITERS = {"html": as_html, "json": as_json, "text": as_text}

STYLE = """
:root { color-scheme: light dark; --ground: #f6f5f1; --card: #fff; --ink: #22302d; --soft: #66736f; --line: #e4e2da; --accent: #2c6e63 }
@media (prefers-color-scheme: dark) {
  :root { --ground: #151a19; --card: #1d2423; --ink: #e3e9e6; --soft: #93a19c; --line: #2d3735; --accent: #7fc8b8 }
}
* { box-sizing: border-box }
body { margin: 0; background: var(--ground); color: var(--ink); font: 1rem/1.55 system-ui, sans-serif }
main { max-width: 56rem; margin: 0 auto; padding: 3.5rem 1.25rem 4rem }
header { display: flex; align-items: center; gap: 1.25rem; margin-bottom: 2.5rem }
h1 { margin: 0; font-size: 2rem; font-weight: 600; letter-spacing: -.02em; overflow-wrap: anywhere }
p { margin: .25rem 0 0; color: var(--soft) }
a { color: var(--accent) }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 1.1rem 1.4rem; margin-top: 1.1rem }
h2 { margin: 0 0 .4rem; font-size: .8rem; font-weight: 600; letter-spacing: .08em; text-transform: uppercase; color: var(--accent) }
dl { margin: 0 }
dl div { display: grid; grid-template-columns: minmax(11rem, 17rem) 1fr; gap: 0 1.25rem; padding: .45rem 0; border-top: 1px solid var(--line) }
dl div:first-child { border-top: 0 }
dt, dd { margin: 0; font: .86rem/1.5 ui-monospace, monospace; overflow-wrap: anywhere }
dt { color: var(--soft) }
.empty { color: var(--soft); font-style: italic }
@media (max-width: 36rem) { dl div { grid-template-columns: 1fr } }
"""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{greeting}</title>
<link rel="icon" href="{static}/gate.svg">
<style>{style}</style>
</head>
<body>
<main>
<header>
<img src="{static}/gate.svg" alt="" width="64" height="64">
<div><h1>{greeting}</h1><p>This is what the application was told about your request. Also as <a href="?format=json">JSON</a> and <a href="?format=text">text</a>.</p></div>
</header>
{sections}
</main>
</body>
</html>
"""

if __name__ == "__main__":
    from wsgiref.simple_server import make_server

    print("http://localhost:8000/ (REMOTE_USER=name in the environment signs somebody in)")
    make_server("localhost", 8000, application).serve_forever()
