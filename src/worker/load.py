"""Finds the callable, wraps it if it speaks ASGI, and says in words what is wrong when it cannot.

Runs once, before the worker is ready; compiled into the extension under the file name `<portcullis>`.
"""

import difflib
import importlib
import inspect
import os
import re
import sys
import traceback
import types

MOST_DIRECTORIES = 100  # a frame holds half a MiB, and a path may have 4 KiB
OWN_FILES = ("<portcullis>", "<string>", importlib.__file__)


class Unloadable(Exception):
    """There is nothing to run; the message is for the person who wrote the policy file."""


def load(directory, module_name, spelling, asgi, adapter):
    """The WSGI callable called `spelling` of `module_name`, looked for in `directory` first. `adapter` is the text of
    asgi.py, for a callable that speaks ASGI."""
    if sys.path and sys.path[0] == "":
        del sys.path[0]  # `-c` put it there; it would follow every later chdir
    sys.path.insert(0, directory)
    factory = re.fullmatch(r"([\w.]+)\(\s*\)", spelling)
    dotted = factory.group(1) if factory else spelling
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", dotted):
        raise Unloadable(f"callable {spelling!r} is neither a name such as `application` nor a factory such as `create_app()`")
    target = find(import_module(directory, module_name), module_name, dotted)
    if factory:
        target = call_factory(target, module_name, dotted)
    if not callable(target):
        hint = " (write `create_app()` with parentheses to call a factory)" if target is None else ""
        raise Unloadable(f"`{spelling}` of module `{module_name}` is {kind(target)}, which cannot be called{hint}")
    what = f"`{spelling}` of module `{module_name}`"
    if asgi:
        check_asgi(target, what)
        return wrap(target, adapter)
    check_wsgi(target, what)
    return target


def check_wsgi(target, what):
    if not is_async(target):
        return
    if accepts(target, 3) is False:
        raise Unloadable(f"{what} is an async function, and a WSGI callable is a plain one: write `def` instead of `async def`")
    raise Unloadable(f'{what} is an ASGI application: write `interface = "asgi"` in its policy, and install a2wsgi beside it')


def check_asgi(target, what):
    if not is_async(target) and accepts(target, 3) is False:
        raise Unloadable(f'{what} is no ASGI application, it does not take (scope, receive, send): leave `interface = "asgi"` out if it is a WSGI callable')


def is_async(target):
    return inspect.iscoroutinefunction(target) or (not inspect.isclass(target) and inspect.iscoroutinefunction(type(target).__call__))


def accepts(target, count):
    """Whether it can be called with that many arguments; None when nobody can tell."""
    try:
        inspect.signature(target).bind(*range(count))
    except TypeError:
        return False
    except ValueError:
        return None
    return True


def wrap(target, adapter):
    module = types.ModuleType("portcullis_asgi")
    try:
        exec(compile(adapter, "<portcullis>", "exec"), module.__dict__)
    except ModuleNotFoundError as error:
        if error.name != "a2wsgi":
            raise
        raise Unloadable(f'`interface = "asgi"` needs the package a2wsgi where the application runs: {sys.executable} -m pip install a2wsgi') from None
    except ImportError as error:
        raise Unloadable(f"this version of a2wsgi is not understood ({error}): {sys.executable} -m pip install 'a2wsgi>=1.10,<2'") from None
    return module.Application(target)


def import_module(directory, name):
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name != missing and not name.startswith(missing + "."):
            raise  # the application was found; something it imports was not
        if not os.path.isdir(directory):
            raise Unloadable(f"the directory {directory} does not exist or cannot be read") from None
        raise Unloadable(f"there is no module `{missing}` in {directory}{did_you_mean(missing, modules_in(directory))}") from None


def find(module, module_name, dotted):
    target, walked = module, f"module `{module_name}`"
    for part in dotted.split("."):
        try:
            target = getattr(target, part)
        except AttributeError:
            near = did_you_mean(part, names_in(target))
            raise Unloadable(f"there is no `{part}` in {walked} ({getattr(module, '__file__', 'built in')}){near}") from None
        walked = f"`{part}` of {walked}"
    return target


def call_factory(factory, module_name, dotted):
    if not callable(factory):
        raise Unloadable(f"`{dotted}` of module `{module_name}` is {kind(factory)}, not a factory that can be called")
    made = factory()
    if not callable(made):
        raise Unloadable(f"the factory `{dotted}()` of module `{module_name}` returned {kind(made)}, which cannot be called")
    return made


def explain(error):
    """The report for the log: the sentence for people, or the traceback without our own frames."""
    if isinstance(error, Unloadable):
        return str(error)
    tb = error.__traceback__
    while tb and tb.tb_frame.f_code.co_filename in OWN_FILES:
        tb = tb.tb_next
    while tb and tb.tb_frame.f_code.co_filename.startswith("<frozen importlib"):
        tb = tb.tb_next
    return "".join(traceback.format_exception(type(error), error, tb)).rstrip() + closed_doors(error)


def closed_doors(error):
    """What a confined worker may not reach and an import may have needed; Python itself says only that it is not there."""
    if isinstance(error, PermissionError) and error.filename:
        closed = [os.fspath(error.filename)]
    elif isinstance(error, ImportError):
        closed = [path for path in sys.path if is_closed(path)]
    else:
        return ""
    hint = "cannot be read by this worker: if it may, list it in `readable` (or `writable`) of its namespace"
    return "".join(f"\n\n{path} {hint}" for path in closed)


def is_closed(path):
    try:
        os.scandir(path).close()
    except PermissionError:
        return True
    except OSError:
        pass
    return False


def directories(own, error=None):
    """Where code comes from that is neither the application's directory nor Python's: what development watches too.

    Those on `sys.path` are among them, and those that a failed import went through: a module that breaks is in
    `sys.modules` no more.
    """
    files = [vars(module).get("__file__") for module in list(sys.modules.values()) if hasattr(module, "__dict__")]
    found = [os.path.dirname(file) for file in files + files_of(error) if isinstance(file, str)]
    theirs = {os.path.realpath(prefix) for prefix in (sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix)}
    own = os.path.realpath(own)
    kept = []
    for directory in sorted({os.path.realpath(directory) for directory in found + [p for p in sys.path if isinstance(p, str)] if directory}):
        installed = {"site-packages", "dist-packages"}.intersection(directory.split(os.sep))
        if not installed and os.path.isdir(directory) and not any(is_below(directory, place) for place in theirs | {own}):
            kept.append(directory)
    return kept[:MOST_DIRECTORIES]


def files_of(error):
    """The files that an exception and its causes went through."""
    files, seen = [], set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        files += [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
        files.append(getattr(error, "filename", None) if isinstance(error, SyntaxError) else None)
        error = error.__cause__ or error.__context__
    return [file for file in files if isinstance(file, str) and os.path.isabs(file)]


def is_below(path, directory):
    return path == directory or path.startswith(directory.rstrip(os.sep) + os.sep)


def modules_in(directory):
    found = []
    for entry in os.scandir(directory):
        name, extension = os.path.splitext(entry.name)
        if extension == ".py" or (entry.is_dir() and os.path.exists(os.path.join(entry.path, "__init__.py"))):
            found.append(name)
    return found


def names_in(target):
    names = [name for name in dir(target) if not name.startswith("_")]
    # A factory or an application object under another name is the likeliest mistake.
    usual = [name for name in ("application", "app", "wsgi_app", "create_app") if name in names]
    return usual + names


def did_you_mean(word, names):
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.6) or [n for n in names if n in ("app", "application", "create_app", "wsgi")]
    return f"; did you mean `{near[0]}`?" if near else ""


def kind(value):
    return "None" if value is None else f"a {type(value).__name__}"
