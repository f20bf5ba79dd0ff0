"""Portcullis beside other servers, in one run, on one machine; prints ratios.

The figure that counts is CPU time of all server processes divided by requests served: the machine is shared with the
load generator, so requests per second say as much about the generator as about the server. Every contender answers the
same bare callable over HTTPS with kept-alive connections and one worker. Portcullis has everything on: a bearer token
is verified, rules decide, the access log is written. Its peers authenticate nobody.

Rounds are interleaved, medians are printed, and each contender is asked once, and must answer rightly, before it is
measured. Needs `wrk`.
"""
from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
TICKS = os.sysconf("SC_CLK_TCK")
PATIENCE = 30.0
"""Seconds a server may take until its first right answer."""

GREETING = b"Hello, World!\n"


@dataclass
class Contender:
    """A server to be measured."""

    name: str
    command: list[str]
    port: int
    path: str
    headers: dict[str, str]
    ca: Path
    process: subprocess.Popen | None = None

    def url(self) -> str:
        return f"https://localhost:{self.port}{self.path}"

    def start(self) -> None:
        self.process = subprocess.Popen(
            self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        context = ssl.create_default_context(cafile=str(self.ca))
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                request = urllib.request.Request(self.url(), headers=self.headers)
                with urllib.request.urlopen(request, context=context, timeout=5) as answer:
                    if answer.read() != GREETING:
                        sys.exit(f"{self.name} answers something else")
                    return
            except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    sys.exit(f"{self.name} does not answer: {error}")
                time.sleep(0.05)

    def stop(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)

    def processes(self) -> list[int]:
        """The server's process and all its descendants."""
        found, queue = [], [self.process.pid]
        while queue:
            pid = queue.pop()
            found.append(pid)
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                try:
                    queue.extend(int(child) for child in task.read_text().split())
                except OSError:
                    pass
        return found

    def cpu_seconds(self) -> float:
        total = 0
        for pid in self.processes():
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            total += int(fields[11]) + int(fields[12])
        return total / TICKS

    def resident_mib(self) -> float:
        total = 0
        for pid in self.processes():
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("VmRSS:"):
                    total += int(line.split()[1])
        return total / 1024


@dataclass
class Round:
    """One measurement."""

    cpu_us: float
    per_second: float
    p99_ms: float


def measure(contender: Contender, connections: int, seconds: float, script: Path) -> Round:
    command = ["wrk", "--threads", "1", "--connections", str(connections), "--duration", f"{seconds:g}s", "--latency"]
    command += ["--script", str(script)]
    for name, value in contender.headers.items():
        command += ["--header", f"{name}: {value}"]
    before = contender.cpu_seconds()
    output = subprocess.run([*command, contender.url()], capture_output=True, text=True, check=True).stdout
    spent = contender.cpu_seconds() - before
    figures = json.loads(output.rsplit("RESULT ", 1)[1].splitlines()[0])
    if figures["bad"]:
        sys.exit(f"{contender.name}: {figures['bad']} wrong answers\n{output}")
    return Round(spent / figures["requests"] * 1e6, figures["requests"] / figures["seconds"], figures["p99"] / 1000)


WRK_REPORT = """
done = function(summary, latency, requests)
  local bad = summary.errors.status + summary.errors.read + summary.errors.write + summary.errors.timeout
  io.write(string.format('RESULT {"requests": %d, "seconds": %f, "p99": %f, "bad": %d}\\n',
    summary.requests, summary.duration / 1e6, latency:percentile(99), bad))
end
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def portcullis(program: Path, home: Path, application: Path, python: Path, best: bool) -> Contender:
    """An installation with the application, a few rules and a service with a token."""
    port = free_port()
    home.mkdir()
    run = [str(program), "--config", str(home / "portcullis.toml")]
    password = home / "password"
    password.write_text("only for this benchmark")
    subprocess.run(
        [str(program), "init", "--dir", str(home), "--listen", f"127.0.0.1:{port}",
         "--admin-password-file", str(password)],
        check=True, stdout=subprocess.DEVNULL,
    )
    if best:
        config = home / "portcullis.toml"
        config.write_text(config.read_text().replace("[gateway]\n", "[gateway]\nthreads = 1\n", 1))
    (home / "policies" / "hello.toml").write_text(f"""
[app]
name = "/hello"
directory = "{application}"
module = "app"
python = "{python}"
methods = ["password", "token"]
workers = 1
threads = 1
default = "signed-in"

[[allow]]
path = "/plain"
methods = ["GET"]
who = "signed-in"

[[deny]]
path = "/plain/private/**"

[[allow]]
path = "/admin/**"
who = "role:administrator"
""")
    token = subprocess.run([*run, "token", "create", "--service", "bench"], check=True, capture_output=True, text=True)
    headers = {"Authorization": f"Bearer {token.stdout.strip()}"}
    name = f"portcullis: {'one data thread' if best else 'default'}, token, rules, logs"
    return Contender(name, [*run, "serve"], port, "/hello/plain", headers, home / "certs/ca.pem")


def granian(python: Path, home: Path, application: Path, best: bool) -> Contender:
    port = free_port()
    command = [
        str(python.parent / "granian"), "--interface", "wsgi", "--host", "127.0.0.1", "--port", str(port),
        "--workers", "1", "--ssl-certificate", str(home / "certs/localhost.pem"),
        "--ssl-keyfile", str(home / "certs/localhost.key"), "--no-log", "--working-dir", str(application),
    ]
    name = "granian: default, no authentication"
    if best:
        command += ["--blocking-threads", "1"]
        name = "granian: best setting, no authentication"
    return Contender(name, [*command, "app:application"], port, "/plain", {}, home / "certs/ca.pem")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--portcullis", type=Path, required=True, help="the program, built in release mode")
    parser.add_argument("--venv", type=Path, required=True, help="virtualenv with the peers")
    parser.add_argument("--connections", type=int, nargs="*", default=[32, 128])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    if not shutil.which("wrk"):
        sys.exit("wrk is missing: sudo apt-get install wrk")

    python = arguments.venv.absolute() / "bin" / "python"
    application = REPOSITORY / "examples" / "hello"
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        script = home / "report.lua"
        script.write_text(WRK_REPORT)
        program = arguments.portcullis.absolute()
        best, default = home / "best", home / "default"
        ours = portcullis(program, best, application, python, best=True)
        contenders = [
            ours,
            portcullis(program, default, application, python, best=False),
            granian(python, best, application, best=True),
            granian(python, best, application, best=False),
        ]
        try:
            for contender in contenders:
                contender.start()
            print(f"portcullis with one idle worker: {ours.resident_mib():.1f} MiB resident\n")
            results = {}
            for connections in arguments.connections:
                for contender in contenders:
                    measure(contender, connections, 1, script)
                for _ in range(arguments.rounds):
                    for contender in contenders:
                        result = measure(contender, connections, arguments.seconds, script)
                        results.setdefault((connections, contender.name), []).append(result)
            report(results, contenders, arguments.connections)
            if arguments.json:
                figures = {f"{name} at {c}": [vars(r) for r in rounds] for (c, name), rounds in results.items()}
                arguments.json.write_text(json.dumps(figures, indent=1))
        finally:
            for contender in contenders:
                contender.stop()


def report(results: dict, contenders: list[Contender], connections: list[int]) -> None:
    print(f"{'connections':>11}  {'server':50} {'CPU us/request':>14} {'spread':>13} {'requests/s':>10} {'p99 ms':>7} {'ratio':>6}")
    for count in connections:
        peer = statistics.median(r.cpu_us for r in results[count, contenders[2].name])
        for contender in contenders:
            rounds = results[count, contender.name]
            cpu = sorted(r.cpu_us for r in rounds)
            middle = statistics.median(cpu)
            print(
                f"{count:>11}  {contender.name:50} {middle:>14.1f} {f'{cpu[0]:.1f}-{cpu[-1]:.1f}':>13}"
                f" {statistics.median(r.per_second for r in rounds):>10.0f}"
                f" {statistics.median(r.p99_ms for r in rounds):>7.2f} {middle / peer:>6.2f}"
            )
        print()
    print("ratio: CPU per request divided by that of Granian at its best setting; below 1 it costs less")


if __name__ == "__main__":
    main()
