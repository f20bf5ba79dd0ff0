"""An application that has been taken over. Each attempt answers with what it got: nothing, if the walls hold."""
import ctypes
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from urllib.parse import parse_qs

LIBC = ctypes.CDLL(None, use_errno=True)


def descriptors():
    """What is open: numbers and kinds, without the one that lists them."""
    found = []
    for name in sorted(os.listdir("/proc/self/fd"), key=int):
        try:
            found.append([int(name), os.readlink("/proc/self/fd/" + name).split(":")[0]])
        except OSError:
            pass
    return found


AT_IMPORT = descriptors()


def attempt(act):
    """What came of it: ["got", ...] or ["refused", why]."""
    try:
        return ["got", act()]
    except BaseException as error:
        return ["refused", "%s: %s" % (type(error).__name__, error)]


def syscall(*arguments):
    result = LIBC.syscall(*arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def ptrace(pid):
    result = LIBC.ptrace(16, pid, 0, 0)  # PTRACE_ATTACH
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return "attached"


def read(path):
    with open(path, "rb") as file:
        return len(file.read(64))


def write(path):
    with open(path, "ab") as file:
        file.write(b"x")
    return "written"


def control(path, lines):
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(20)
        peer.connect(path)
        try:
            peer.sendall(lines.encode())
        except OSError:
            pass
        answer = peer.recv(4096)
    if not answer:
        raise OSError("nothing was said")
    return answer.decode()


def memory(mebibytes):
    blocks = []
    for _ in range(mebibytes):
        blocks.append(bytearray(os.urandom(1)) * (1 << 20))
    return len(blocks)


def files(count):
    kept = [open("/dev/null") for _ in range(count)]
    return len(kept)


def processes(count):
    children = []
    try:
        for _ in range(count):
            children.append(subprocess.Popen(["/bin/sleep", "60"]))
        return len(children)
    finally:
        for child in children:
            child.kill()
            child.wait()


def status(name):
    with open("/proc/self/status") as file:
        return next(line.split(":", 1)[1].split() for line in file if line.startswith(name + ":"))


def sockets():
    """The worker's own sockets, the control socket among them."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink("/proc/self/fd/" + name).startswith("socket:"):
                found.append(int(name))
        except OSError:
            pass
    return found


def frame(kind, payload, request=1):
    return struct.pack("<IIB", len(payload), request, kind) + payload


def text(string):
    return struct.pack("<I", len(string)) + string


def say(descriptor, data, patience):
    """Says all of it, or as much as is taken in time."""
    end = time.monotonic() + patience
    view = memoryview(data)
    peer = socket.socket(fileno=os.dup(descriptor))
    peer.setblocking(False)
    try:
        while view and time.monotonic() < end:
            select.select([], [peer], [], 0.1)
            try:
                view = view[peer.send(view):]
            except BlockingIOError:
                pass
    finally:
        peer.close()


def wreck(how):
    """Speaks where only the worker itself should, beside it."""
    own = sockets()
    if how == "close":
        for descriptor in own:
            os.close(descriptor)
    elif how == "stdout":
        line = b"x" * 8191 + b"\n"
        end = time.monotonic() + 3
        while time.monotonic() < end:
            os.write(1, line)
    else:
        data = {
            "random": os.urandom(1 << 20),
            "lengths": b"\xff" * (1 << 20),
            "frames": b"".join(frame(kind, b"\0" * 512, request) for kind in range(1, 40) for request in range(200)),
            "answers": b"".join(frame(kind, b"\xc8\0" + b"\0" * 62, n) for n in range(5000) for kind in (16, 17, 18, 19, 20)),
            "logs": frame(50, b"\0" + text(b"r") + text(b"t") + text(b"x" * 9000), 0) * 2000,
        }[how]
        for descriptor in own:
            try:
                say(descriptor, data, 3)
            except OSError:
                pass
    return "done"


def answer(environ):
    query = {name: values[0] for name, values in parse_qs(environ["QUERY_STRING"]).items()}
    act = environ["PATH_INFO"].strip("/")
    pid = int(query.get("pid", "0"))
    path = query.get("path", "")
    acts = {
        "read": lambda: read(path),
        "list": lambda: len(os.listdir(path)),
        "write": lambda: write(path),
        "make": lambda: os.mkdir(path) or "made",
        "link": lambda: read_link_trick(path),
        "ptrace": lambda: ptrace(pid),
        "memory_of": lambda: read("/proc/%d/mem" % pid),
        "environment_of": lambda: read("/proc/%d/environ" % pid),
        "descriptors_of": lambda: [os.readlink("/proc/%d/fd/%s" % (pid, name)) for name in os.listdir("/proc/%d/fd" % pid)],
        "root_of": lambda: len(os.listdir("/proc/%d/root/" % pid)),
        "signal": lambda: os.kill(pid, int(query["signal"])) or "sent",
        "group": lambda: os.killpg(pid, int(query["signal"])) or "sent",
        "pidfd": lambda: signal.pidfd_send_signal(os.pidfd_open(pid), int(query["signal"])) or "sent",
        "vm_read": lambda: process_vm_read(pid),
        "control": lambda: control(path, query["lines"]),
        "memory": lambda: memory(int(query["count"])),
        "files": lambda: files(int(query["count"])),
        "processes": lambda: processes(int(query["count"])),
        "setuid": lambda: os.setuid(0) or os.getuid(),
        "setgroups": lambda: os.setgroups([0]) or os.getgroups(),
        "run": lambda: subprocess.run([path, "-u"], check=True, capture_output=True).stdout.decode().strip(),
        "wreck": lambda: wreck(path),
    }
    if act == "self":
        return {
            "uid": os.getresuid(), "gid": os.getresgid(), "groups": os.getgroups(), "umask": umask(),
            "no_new_privs": status("NoNewPrivs"), "environ": dict(os.environ), "cwd": os.getcwd(),
            "at_import": AT_IMPORT,
            "core": resource_core(), "executable": sys.executable, "prefix": sys.prefix,
        }
    if act == "here":
        return {"application": environ["portcullis.application"]}
    return attempt(acts[act])


def resource_core():
    import resource
    return resource.getrlimit(resource.RLIMIT_CORE)


def umask():
    mask = os.umask(0o77)
    os.umask(mask)
    return mask


def read_link_trick(path):
    """Through a link in a place that may be written."""
    link = os.path.join(os.environ["TMPDIR"], "link")
    if os.path.lexists(link):
        os.unlink(link)
    os.symlink(path, link)
    try:
        return read(link)
    finally:
        os.unlink(link)


def process_vm_read(pid):
    class Vector(ctypes.Structure):
        _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
    buffer = ctypes.create_string_buffer(8)
    local = Vector(ctypes.addressof(buffer), 8)
    remote = Vector(0x400000, 8)
    result = LIBC.process_vm_readv(pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def application(environ, start_response):
    body = json.dumps(answer(environ)).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
