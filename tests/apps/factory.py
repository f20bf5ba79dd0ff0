"""`create_app()` makes the callable; `create_nothing()` makes none; `Site.application` is a dotted callable."""


def create_app():
    def application(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"made by a factory"]
    return application


def create_nothing():
    return None


class Site:
    @staticmethod
    def application(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"dotted"]
