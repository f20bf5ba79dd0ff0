"""Notes: a Flask application that trusts the gate for who is asking and who may see /admin."""

import os
import secrets
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

from flask import Flask, Response, abort, g, jsonify, redirect, render_template, request, send_file, url_for
from itsdangerous import BadData, URLSafeTimedSerializer
from werkzeug.exceptions import HTTPException, NotFound

DATA = Path(os.environ.get("PORTCULLIS_DATA_DIR") or Path(__file__).parent / "data")
FILES = DATA / "notes-files"
FILES.mkdir(mode=0o700, parents=True, exist_ok=True)

FORM_LIFETIME = 12 * 60 * 60  # seconds
TITLE_LIMIT = 200  # characters
NAME_LIMIT = 200  # characters
BODY_LIMIT = 100_000  # characters
DOWNLOAD_LIMIT = 2048  # MiB
BLOCK = bytes(range(256)) * 256  # 64 KiB

SCHEMA = """
CREATE TABLE IF NOT EXISTS note (
    id      INTEGER PRIMARY KEY,
    owner   TEXT NOT NULL,
    title   TEXT NOT NULL,
    body    TEXT NOT NULL,
    changed TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))
);
CREATE INDEX IF NOT EXISTS note_by_owner ON note (owner, changed);
CREATE TABLE IF NOT EXISTS attachment (
    id     INTEGER PRIMARY KEY,
    note   INTEGER NOT NULL REFERENCES note (id) ON DELETE CASCADE,
    name   TEXT NOT NULL,
    size   INTEGER NOT NULL,
    stored TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS attachment_by_note ON attachment (note);
"""


# The database and the key


def database_path():
    url = urlsplit(os.environ.get("DATABASE_URL") or f"sqlite:///{DATA.resolve()}/database.sqlite3")
    if url.scheme != "sqlite":
        raise RuntimeError(f"notes keeps its data in SQLite; DATABASE_URL names {url.scheme!r}")
    return unquote(url.path[1:])


DATABASE = database_path()


def connect():
    db = sqlite3.connect(DATABASE, timeout=10)
    db.row_factory = sqlite3.Row
    db.execute("PRAGMA foreign_keys = ON")
    return db


def create_schema():
    with closing(connect()) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.executescript(SCHEMA)


def secret_key():
    path = DATA / "notes-secret.key"
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


create_schema()

application = Flask(__name__)
application.config.update(SECRET_KEY=secret_key(), MAX_CONTENT_LENGTH=64 * 1024 * 1024)


def db():
    if "db" not in g:
        g.db = connect()
    return g.db


@application.teardown_appcontext
def close_db(_error):
    if "db" in g:
        g.pop("db").close()


# Every request


@application.before_request
def know_the_user():
    if request.endpoint == "static":
        return
    name = request.environ.get("REMOTE_USER")
    if not name:
        abort(403, "Notes belong to somebody: this application needs to be told who you are.")
    g.user = name.encode("latin-1").decode()  # CGI values carry UTF-8 bytes as latin-1


@application.before_request
def check_form_token():
    # Browsers attach Basic credentials to cross-site posts too. The API needs no token: it takes only
    # application/json, which a form cannot send and a foreign script may not.
    if request.method != "POST" or request.path.startswith("/api/"):
        return
    try:
        named = form_signer().loads(request.form.get("token", ""), max_age=FORM_LIFETIME)
    except BadData:
        named = None
    if named != g.user:
        abort(403, "This form is too old or was not made for you. Go back, reload the page and try again.")


def form_signer():
    return URLSafeTimedSerializer(application.secret_key, salt="notes-form")


@application.context_processor
def template_names():
    user = g.get("user")
    return {"user": user, "form_token": lambda: form_signer().dumps(user)}


@application.template_filter("size")
def size_in_words(count):
    for unit in ("bytes", "KiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} MiB"


@application.after_request
def protect(response):
    headers = response.headers
    headers.setdefault("Content-Security-Policy", "default-src 'self'; base-uri 'none'; frame-ancestors 'none'")
    headers.setdefault("X-Content-Type-Options", "nosniff")
    headers.setdefault("Cache-Control", "no-store")
    return response


@application.errorhandler(HTTPException)
def show_error(error):
    if error.code is None or error.code < 400:
        return error  # a redirect
    if request.path.startswith("/api/"):
        answer = jsonify(error=error.description)
    else:
        answer = application.make_response(render_template("error.html", error=error))
    answer.status_code = error.code
    for name, value in error.get_headers():
        if name not in ("Content-Type", "Content-Length"):
            answer.headers[name] = value
    return answer


@application.errorhandler(OverflowError)
def no_such_number(_error):
    """SQLite takes 64 bits; an id beyond that belongs to nothing."""
    return show_error(NotFound())


# Notes


def own_note(note_id):
    note = db().execute("SELECT * FROM note WHERE id = ? AND owner = ?", (note_id, g.user)).fetchone()
    return note or abort(404, "There is no such note among yours.")


def own_notes():
    return (
        db()
        .execute(
            "SELECT note.*, (SELECT count(*) FROM attachment WHERE attachment.note = note.id) AS attachments"
            " FROM note WHERE owner = ? ORDER BY changed DESC, id DESC",
            (g.user,),
        )
        .fetchall()
    )


def checked(title, body):
    if not isinstance(title, str) or not isinstance(body, str):
        abort(400, "Title and body are texts.")
    title, body = title.strip(), body.replace("\r\n", "\n")
    if not title or len(title) > TITLE_LIMIT:
        abort(400, f"A note needs a title of at most {TITLE_LIMIT} characters.")
    if len(body) > BODY_LIMIT:
        abort(400, f"A note has at most {BODY_LIMIT} characters.")
    try:
        (title + body).encode()
    except UnicodeEncodeError:  # JSON can spell half a character
        abort(400, "The text is not valid Unicode.")
    return title, body


def add_note(title, body):
    with db():
        return (
            db()
            .execute(
                "INSERT INTO note (owner, title, body) VALUES (?, ?, ?) RETURNING *, 0 AS attachments",
                (g.user, *checked(title, body)),
            )
            .fetchone()
        )


@application.get("/")
def index():
    return render_template("index.html", notes=own_notes())


@application.post("/")
def create():
    note = add_note(request.form.get("title", ""), request.form.get("body", ""))
    return redirect(url_for("show", note_id=note["id"]), 303)


@application.get("/<int:note_id>")
def show(note_id):
    note = own_note(note_id)
    files = db().execute("SELECT * FROM attachment WHERE note = ? ORDER BY name, id", (note_id,)).fetchall()
    return render_template("note.html", note=note, files=files)


@application.get("/<int:note_id>/edit")
def edit(note_id):
    return render_template("edit.html", note=own_note(note_id))


@application.post("/<int:note_id>/edit")
def save(note_id):
    own_note(note_id)
    title, body = checked(request.form.get("title", ""), request.form.get("body", ""))
    with db():
        db().execute(
            "UPDATE note SET title = ?, body = ?, changed = strftime('%Y-%m-%dT%H:%M:%SZ', 'now')"
            " WHERE id = ? AND owner = ?",
            (title, body, note_id, g.user),
        )
    return redirect(url_for("show", note_id=note_id), 303)


@application.post("/<int:note_id>/delete")
def delete(note_id):
    own_note(note_id)
    with db():
        stored = db().execute("SELECT stored FROM attachment WHERE note = ?", (note_id,)).fetchall()
        db().execute("DELETE FROM note WHERE id = ? AND owner = ?", (note_id, g.user))
    for row in stored:
        (FILES / row["stored"]).unlink(missing_ok=True)
    return redirect(url_for("index"), 303)


# Attachments


@application.post("/<int:note_id>/files")
def attach(note_id):
    own_note(note_id)
    upload = request.files.get("file")
    if not upload or not upload.filename:
        abort(400, "Choose a file first.")
    name = upload.filename.replace("\\", "/").rpartition("/")[2][-NAME_LIMIT:] or "file"
    stored = FILES / secrets.token_hex(16)  # the browser's name is shown, never used as a path
    try:
        upload.save(stored)
        with db():
            db().execute(
                "INSERT INTO attachment (note, name, size, stored) VALUES (?, ?, ?, ?)",
                (note_id, name, stored.stat().st_size, stored.name),
            )
    except BaseException:
        stored.unlink(missing_ok=True)
        raise
    return redirect(url_for("show", note_id=note_id), 303)


def own_file(note_id, file_id):
    own_note(note_id)
    file = db().execute("SELECT * FROM attachment WHERE id = ? AND note = ?", (file_id, note_id)).fetchone()
    return file or abort(404, "This note has no such file.")


@application.get("/<int:note_id>/files/<int:file_id>")
def download_file(note_id, file_id):
    file = own_file(note_id, file_id)
    return send_file(
        FILES / file["stored"],
        mimetype="application/octet-stream",  # never shown as a page of this site
        as_attachment=True,
        download_name=file["name"],
    )


@application.post("/<int:note_id>/files/<int:file_id>/delete")
def detach(note_id, file_id):
    file = own_file(note_id, file_id)
    with db():
        db().execute("DELETE FROM attachment WHERE id = ?", (file_id,))
    (FILES / file["stored"]).unlink(missing_ok=True)
    return redirect(url_for("show", note_id=note_id), 303)


@application.get("/download/<int:mib>")
def download(mib):
    """That many MiB of a repeating pattern, made while it is sent."""
    if mib > DOWNLOAD_LIMIT:
        abort(404, f"The largest download is {DOWNLOAD_LIMIT} MiB.")
    blocks = (BLOCK for _ in range(mib * 16))
    return Response(
        blocks,
        mimetype="application/octet-stream",
        headers={
            "Content-Length": str(mib * 1024 * 1024),
            "Content-Disposition": f'attachment; filename="{mib}-mib.bin"',
        },
    )


# Administration: the gate lets only administrators come here


@application.get("/admin/")
def admin():
    notes = (
        db()
        .execute(
            "SELECT note.*, count(attachment.id) AS attachments, coalesce(sum(attachment.size), 0) AS size"
            " FROM note LEFT JOIN attachment ON attachment.note = note.id"
            " GROUP BY note.id ORDER BY owner, changed DESC"
        )
        .fetchall()
    )
    return render_template("admin.html", notes=notes)


# The same notes for programs


def as_json(note):
    keys = ("id", "title", "body", "changed", "attachments")
    return {key: note[key] for key in keys} | {"url": url_for("show", note_id=note["id"])}


@application.get("/api/notes")
def api_list():
    return jsonify(user=g.user, notes=[as_json(note) for note in own_notes()])


@application.post("/api/notes")
def api_create():
    if request.mimetype != "application/json":
        abort(415, "Send the note as application/json.")
    sent = request.get_json()
    if not isinstance(sent, dict):
        abort(400, 'Send an object: {"title": "...", "body": "..."}.')
    note = as_json(add_note(sent.get("title", ""), sent.get("body", "")))
    return jsonify(note), 201, {"Location": note["url"]}


if __name__ == "__main__":
    from wsgiref.simple_server import make_server

    print("http://localhost:8000/ (needs REMOTE_USER=name in the environment)")
    make_server("localhost", 8000, application).serve_forever()
