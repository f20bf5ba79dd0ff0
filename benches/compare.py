"""Portcullis beside other servers, in one run, on one machine; prints ratios.

The figure that counts is CPU time of all server processes divided by requests served: the machine is shared with the
load generator, so requests per second say as much about the generator as about the server. Every contender answers the
same bare callable over HTTPS with kept-alive connections and one worker: `hello` is a greeting of 14 bytes, `echo` a
body of 100 KiB that is given back piece by piece. Portcullis has everything on: a bearer token is verified, rules
decide, the access log is written. Its peers authenticate nobody. `--baseline` is another build of Portcullis, for what
a change costs.

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


@dataclass
class Scenario:
    """What is asked for, and what has to come back."""

    name: str
    directory: Path
    module: str
    body: bytes | None
    answer: bytes

    def wrk_script(self) -> str:
        if self.body is None:
            return WRK_REPORT
        return f"wrk.method = 'POST'\nwrk.body = string.rep('x', {len(self.body)})\n{WRK_REPORT}"


UPLOAD = b"x" * (100 * 1024)
SCENARIOS = [
    Scenario("hello", REPOSITORY / "examples" / "hello", "app", None, b"Hello, World!\n"),
    Scenario("echo", REPOSITORY / "benches", "echo", UPLOAD, UPLOAD),
]


@dataclass
class Contender:
    """A server to be measured."""

    name: str
    command: list[str]
    port: int
    path: str
    headers: dict[str, str]
    ca: Path
    scenario: Scenario
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
                request = urllib.request.Request(self.url(), headers=self.headers, data=self.scenario.body)
                with urllib.request.urlopen(request, context=context, timeout=5) as answer:
                    if answer.read() != self.scenario.answer:
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


def portcullis(program: Path, home: Path, scenario: Scenario, python: Path, best: bool, name: str) -> Contender:
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
directory = "{scenario.directory}"
module = "{scenario.module}"
python = "{python}"
methods = ["password", "token"]
workers = 1
threads = 1
default = "signed-in"

[[allow]]
path = "/plain"
methods = ["GET", "POST"]
who = "signed-in"

[[deny]]
path = "/plain/private/**"

[[allow]]
path = "/admin/**"
who = "role:administrator"
""")
    token = subprocess.run([*run, "token", "create", "--service", "bench"], check=True, capture_output=True, text=True)
    headers = {"Authorization": f"Bearer {token.stdout.strip()}"}
    return Contender(name, [*run, "serve"], port, "/hello/plain", headers, home / "certs/ca.pem", scenario)


def granian(python: Path, home: Path, scenario: Scenario, best: bool) -> Contender:
    port = free_port()
    command = [
        str(python.parent / "granian"), "--interface", "wsgi", "--host", "127.0.0.1", "--port", str(port),
        "--workers", "1", "--ssl-certificate", str(home / "certs/localhost.pem"),
        "--ssl-keyfile", str(home / "certs/localhost.key"), "--no-log", "--working-dir", str(scenario.directory),
    ]
    name = "granian: default, no authentication"
    if best:
        command += ["--blocking-threads", "1"]
        name = "granian: best setting, no authentication"
    command += [f"{scenario.module}:application"]
    return Contender(name, command, port, "/plain", {}, home / "certs/ca.pem", scenario)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--portcullis", type=Path, required=True, help="the program, built in release mode")
    parser.add_argument("--venv", type=Path, required=True, help="virtualenv with the peers")
    parser.add_argument("--baseline", type=Path, help="another build, to be measured beside it")
    parser.add_argument("--scenarios", nargs="*", choices=[s.name for s in SCENARIOS], default=["hello", "echo"])
    parser.add_argument("--connections", type=int, nargs="*", default=[32, 128])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    if not shutil.which("wrk"):
        sys.exit("wrk is missing: sudo apt-get install wrk")

    figures = {}
    for scenario in SCENARIOS:
        if scenario.name in arguments.scenarios:
            with tempfile.TemporaryDirectory() as directory:
                figures |= compare(scenario, arguments, Path(directory))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1))
    print("ratio: CPU per request divided by that of Granian at its best setting; below 1 it costs less")


def compare(scenario: Scenario, arguments: argparse.Namespace, home: Path) -> dict:
    """Measures all contenders at one thing, in turns, and prints the medians."""
    python = arguments.venv.absolute() / "bin" / "python"
    script = home / "report.lua"
    script.write_text(scenario.wrk_script())
    program = arguments.portcullis.absolute()
    ours = portcullis(program, home / "best", scenario, python, True, "portcullis: one data thread, token, rules, logs")
    contenders = [
        ours,
        portcullis(program, home / "default", scenario, python, False, "portcullis: default, token, rules, logs"),
        granian(python, home / "best", scenario, best=True),
        granian(python, home / "best", scenario, best=False),
    ]
    if arguments.baseline:
        before = arguments.baseline.absolute()
        contenders.append(portcullis(before, home / "before", scenario, python, True, "baseline: one data thread"))
    results: dict = {}
    try:
        for contender in contenders:
            contender.start()
        print(f"{scenario.name}: portcullis with one idle worker: {ours.resident_mib():.1f} MiB resident\n")
        for connections in arguments.connections:
            for contender in contenders:
                measure(contender, connections, 1, script)
            for _ in range(arguments.rounds):
                for contender in contenders:
                    result = measure(contender, connections, arguments.seconds, script)
                    results.setdefault((connections, contender.name), []).append(result)
        report(results, contenders, arguments.connections)
    finally:
        for contender in contenders:
            contender.stop()
    return {f"{scenario.name}: {name} at {c}": [vars(r) for r in rounds] for (c, name), rounds in results.items()}


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


if __name__ == "__main__":
    main()
