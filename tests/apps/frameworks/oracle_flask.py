"""A Flask application whose own routes say what is protected: /admin and below. It tells what it was called for."""
from flask import Flask, jsonify, request

application = Flask(__name__)


def tell():
    environ = request.environ
    return jsonify(
        script=environ["SCRIPT_NAME"],
        path=environ["PATH_INFO"],
        request=environ["portcullis.request_id"],
        number=environ.get("HTTP_X_NUMBER"),
    )


@application.route("/environ")
def environ():
    seen = {key: value for key, value in request.environ.items() if isinstance(value, str)}
    seen["user"], seen["address"] = repr(request.remote_user), repr(request.remote_addr)
    return jsonify(values=seen, types={}, headers=sorted(request.headers.items()), url=request.url)


@application.route("/admin")
@application.route("/admin/")
@application.route("/admin/<path:rest>")
def protected(rest=""):
    answer = tell()
    answer.headers["X-Protected"] = "yes"
    return answer


@application.route("/")
@application.route("/<path:rest>")
def anything(rest=""):
    return tell()
