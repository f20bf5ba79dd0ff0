"""Lets records of `logging` and of `warnings` reach the application's log whole, and with their level.

Runs once, before the application is imported; compiled into the extension under the file name `<portcullis>`. `logging`
is not imported for an application that does without it: that would cost every such worker time and memory. Whoever
imports it later is noticed.
"""

import importlib.util
import sys
import warnings

WARNING = 30  # logging.WARNING


def install(stream_type):
    """`stream_type` is the class of `sys.stdout`, `sys.stderr` and `wsgi.errors`."""
    warnings.showwarning = show_through(warnings.showwarning, stream_type)
    if "logging" in sys.modules:
        wrap(sys.modules["logging"], stream_type)
    else:
        sys.meta_path.insert(0, ImportOfLogging(stream_type))


def show_through(original, stream_type):
    def showwarning(message, category, filename, lineno, file=None, line=None):
        stream = sys.stderr if file is None else file
        if not is_ours(stream, stream_type):
            return original(message, category, filename, lineno, file, line)
        stream.write_record(WARNING, warnings.formatwarning(message, category, filename, lineno, line))

    return showwarning


def wrap(logging, stream_type):
    """`logging.lastResort` inherits the same method."""
    original = logging.StreamHandler.emit

    def emit(self, record):
        if not is_ours(self.stream, stream_type):
            return original(self, record)
        try:
            self.stream.write_record(record.levelno, self.format(record) + self.terminator)
            self.flush()
        except RecursionError:
            raise
        except Exception:
            self.handleError(record)

    emit.__doc__ = original.__doc__
    logging.StreamHandler.emit = emit


def is_ours(stream, stream_type):
    """True for a proxy of one of ours too, such as Flask's `wsgi_errors_stream`."""
    try:
        return isinstance(stream, stream_type)
    except Exception:
        return False


class ImportOfLogging:
    """Waits for the first `import logging`, and is gone."""

    def __init__(self, stream_type):
        self.stream_type = stream_type

    def find_spec(self, name, path=None, target=None):
        if name != "logging":
            return None
        # A new list: another thread may be walking through this one.
        sys.meta_path = [finder for finder in sys.meta_path if finder is not self]
        spec = importlib.util.find_spec(name)
        if spec is not None and hasattr(spec.loader, "exec_module"):
            self.follow(spec.loader)
        return spec

    def follow(self, loader):
        execute = loader.exec_module

        def exec_module(module):
            execute(module)
            if module.__name__ == "logging":
                del loader.exec_module
                wrap(module, self.stream_type)

        try:
            loader.exec_module = exec_module
        except AttributeError:
            pass  # a loader that cannot be followed: its records arrive as lines
