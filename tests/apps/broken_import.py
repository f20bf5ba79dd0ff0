"""Cannot be imported: what it needs is not installed."""
import a_package_that_is_not_installed


def application(environ, start_response):
    return []
