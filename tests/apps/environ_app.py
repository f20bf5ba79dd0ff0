"""Answers with its `environ` as JSON: the values that are strings, the caller, and the type of everything."""
import json


def application(environ, start_response):
    document = {
        "exact_dict": type(environ) is dict,
        "values": {key: value for key, value in environ.items() if isinstance(value, (str, bool))},
        "types": {key: type(value).__name__ for key, value in environ.items()},
        "user": environ.get("portcullis.user"),
        "version": environ["wsgi.version"],
        "body": environ["wsgi.input"].read().decode("latin-1"),
    }
    body = json.dumps(document).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
