"""The systemd unit: systemd finds nothing wrong with it, and a worker runs under the filters that it asks for."""

from __future__ import annotations

import ctypes.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.servers import DEADLINE_S, Gearmand, wait_until
from support.tools import find_tool, missing
from support.wire import Wire
from support.workers import WorkerProcess

from gearworker.config import Shutdown
from gearworker.protocol.packets import PacketType

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
UNIT = DEPLOY / "systemd" / "gearworker@.service"
SECCOMP_EXEC = ROOT / "tests" / "support" / "seccomp_exec.py"


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze."""
    path = find_tool("systemd-analyze", package="systemd")
    return subprocess.run([path, *arguments], capture_output=True, text=True, timeout=60)


def systemd_version() -> int:
    return int(analyze("--version").stdout.split()[1])


def settings() -> dict[str, list[str]]:
    """The unit's settings, each with its values in order."""
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        if line and not line.startswith(("#", "[")):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def seconds(value: str) -> float:
    """A time as the unit has it: plain seconds."""
    assert re.fullmatch(r"\d+", value), f"{value}: write plain seconds"
    return float(value)


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    command = tmp_path / "gearworker"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/gearworker/bin/gearworker", str(command)))
    verified = analyze("verify", "--man=no", str(unit))
    # Units of the system that it reads along may have faults of their own.
    assert "gearworker@" not in verified.stdout + verified.stderr
    assert str(tmp_path) not in verified.stdout + verified.stderr
    assert verified.returncode == 0, verified.stderr


def test_a_fault_in_the_unit_would_be_found(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("Restart=always", "Restart=sometimes"))
    assert "sometimes" in analyze("verify", "--man=no", str(unit)).stderr


def test_the_exposure_level_is_the_one_that_the_readme_states() -> None:
    if systemd_version() < 252:
        missing("systemd-analyze security --offline needs systemd 252")
    answer = analyze("security", "--offline=true", "--no-pager", str(UNIT)).stdout
    found = re.search(r"Overall exposure level for \S+: (\d+\.\d)", answer)
    stated = re.search(r"exposure level of (\d+\.\d)", (DEPLOY / "README.md").read_text())
    assert found, answer[-500:]
    assert stated
    if systemd_version() == 252:
        assert found[1] == stated[1]
    assert float(found[1]) <= 1.5  # newer versions ask for more


def test_a_stop_leaves_more_time_than_the_drain_takes() -> None:
    unit = settings()
    assert seconds(unit["TimeoutStopSec"][0]) >= Shutdown().grace_s + 10
    assert unit["KillMode"] == ["mixed"]


def test_the_supervisor_is_asked_for_readiness_life_and_reloads() -> None:
    unit = settings()
    assert unit["Type"] == ["notify"]
    assert unit["NotifyAccess"] == ["main"]
    assert seconds(unit["WatchdogSec"][0]) >= 30
    assert unit["Restart"] == ["always"]
    assert unit["ExecStart"] == ["/opt/gearworker/bin/gearworker run /etc/gearworker/%i.yaml"]
    assert unit["ExecReload"] == [
        "/opt/gearworker/bin/gearworker check /etc/gearworker/%i.yaml",
        "/bin/kill -HUP $MAINPID",
    ]


def test_a_configuration_that_can_not_be_used_is_not_tried_again(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("tasks: []\n")
    ended = subprocess.run(
        [sys.executable, "-m", "gearworker", "run", "config.yaml"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=30,
    )
    assert str(ended.returncode) in settings()["RestartPreventExitStatus"][0].split()


def system_calls(filters: list[str]) -> list[str]:
    """The names that SystemCallFilter= lines allow: a line with ~ takes away, @groups are systemd's own."""
    groups: dict[str, list[str]] = {}
    group = ""
    for line in analyze("syscall-filter", "--no-pager").stdout.splitlines():
        if line.startswith("@"):
            group = line.strip()
        elif line.startswith("    ") and not line.strip().startswith("#"):
            groups.setdefault(group, []).append(line.strip())

    def expand(name: str) -> set[str]:
        return set().union(*map(expand, groups[name])) if name.startswith("@") else {name}

    allowed = expand("@default")
    for line in filters:
        names = set().union(*map(expand, line.removeprefix("~").split()))
        allowed = allowed - names if line.startswith("~") else allowed | names
    return sorted(allowed)


class WrappedWorker(WorkerProcess):
    """A worker that another program starts."""

    def wrapper(self) -> list[str]:
        """The command line of that program, to which the worker's own is added."""
        raise NotImplementedError

    def start(self, *, wait: bool = True) -> WorkerProcess:
        run = [sys.executable, "-m", "gearworker", "run", "config.yaml"]
        with (self.directory / "worker.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self.wrapper(), *run],
                cwd=self.directory,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until(self.ready, what="the worker to be ready")
        return self


class ConfinedWorker(WrappedWorker):
    """A worker under the unit's filters."""

    def wrapper(self) -> list[str]:
        unit = settings()
        rules = {
            "allow": system_calls(unit["SystemCallFilter"]),
            "families": unit["RestrictAddressFamilies"][0].split(),
            "deny_write_execute": unit["MemoryDenyWriteExecute"] == ["yes"],
        }
        return [sys.executable, str(SECCOMP_EXEC), json.dumps(rules)]


class WorkerOnReadOnlyFiles(WrappedWorker):
    """A worker that can write to no disk and has no capability, as in a container with --read-only."""

    def wrapper(self) -> list[str]:
        unshare = [find_tool("unshare", package="util-linux"), "--mount", "--propagation", "private"]
        mount = "mount -o remount,bind,ro /"
        if subprocess.run([*unshare, "sh", "-c", mount], capture_output=True).returncode != 0:
            pytest.skip("a mount namespace can't be made here")
        return [*unshare, "sh", "-c", f'{mount} && exec setpriv --no-new-privs --bounding-set=-all "$@"', "sh"]


TASKS = """
    import errno, mmap, os, socket, subprocess
    import gevent
    from gearworker import task

    @task
    def echo(job):
        gevent.sleep(0.01)
        return job.data

    @task(thread=True)
    def in_thread(job):
        return job.data

    @task
    def child(job):
        return subprocess.run(["/bin/echo", "-n", "child"], stdout=subprocess.PIPE, check=True).stdout

    @task
    def resolve(job):
        return socket.getaddrinfo("localhost", 80)[0][4][0]

    @task
    def forbidden(job):
        attempts = {
            "write and execute": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC),
            "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
            "affinity": lambda: os.sched_setaffinity(0, {0}),
            "chroot": lambda: os.chroot("/"),
        }
        return " ".join(errno.errorcode[outcome(attempt)] for attempt in attempts.values())

    @task
    def write(job):
        return errno.errorcode[outcome(lambda: open("file", "w"))]

    def outcome(attempt):
        try:
            attempt()
        except OSError as error:
            return error.errno
"""


@pytest.mark.gearmand
def test_a_worker_serves_and_drains_under_the_units_filters(gearmand: Gearmand, tmp_path: Path) -> None:
    if ctypes.util.find_library("seccomp") is None and not list(Path("/usr/lib").glob("*/libseccomp.so.2")):
        missing("libseccomp is not installed (Debian: libseccomp2)")
    worker = ConfinedWorker(tmp_path / "confined", [gearmand], TASKS)
    try:
        worker.start()
        wire = Wire(gearmand.port)
        expected = {
            b"echo": b"x", b"in_thread": b"x", b"child": b"child", b"forbidden": b"EPERM EAFNOSUPPORT EPERM EPERM",
        }  # fmt: skip
        for task, result in expected.items():
            assert run_job(wire, task) == (PacketType.WORK_COMPLETE, result)
        assert run_job(wire, b"resolve")[1] in (b"127.0.0.1", b"::1")
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0, worker.log
    finally:
        worker.stop()


def run_job(wire: Wire, task: bytes) -> tuple[PacketType, bytes]:
    """Submit a job and wait for its end."""
    created = wire.ask(PacketType.SUBMIT_JOB, task, b"unique of " + task, b"x")
    assert created.type == PacketType.JOB_CREATED
    ended = wire.read()
    return ended.type, ended.args[-1]


@pytest.mark.gearmand
def test_the_service_tells_systemd_of_its_start_life_reload_and_stop(
    gearmand: Gearmand, start_worker: Callable[..., WorkerProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Socket addresses are short: not in pytest's deep directories.
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"{directory}/notify")
        manager.settimeout(DEADLINE_S)
        monkeypatch.setenv("NOTIFY_SOCKET", f"{directory}/notify")
        monkeypatch.setenv("WATCHDOG_USEC", "400000")
        worker = start_worker(gearmand, tasks=TASKS, wait=False)
        hear(manager, "READY=1")
        for _ in range(3):
            hear(manager, "WATCHDOG=1")
        worker.signal(signal.SIGHUP)
        assert int(hear(manager, "RELOADING=1")["MONOTONIC_USEC"]) > 0
        hear(manager, "READY=1")
        worker.signal(signal.SIGTERM)
        hear(manager, "STOPPING=1")
        assert worker.wait() == 0, worker.log


def hear(manager: socket.socket, wanted: str) -> dict[str, str]:
    """Read messages until one begins with these words; its fields."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        message = manager.recv(4096).decode()
        if message.startswith(wanted):
            return dict(line.split("=", 1) for line in message.splitlines())
    pytest.fail(f"{wanted} did not come within {DEADLINE_S:g} s")


@pytest.mark.gearmand
def test_a_worker_writes_no_file(gearmand: Gearmand, tmp_path: Path) -> None:
    worker = WorkerOnReadOnlyFiles(tmp_path / "read-only", [gearmand], TASKS)
    try:
        worker.start()
        wire = Wire(gearmand.port)
        assert run_job(wire, b"echo") == (PacketType.WORK_COMPLETE, b"x")
        assert run_job(wire, b"write") == (PacketType.WORK_COMPLETE, b"EROFS")
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0, worker.log
    finally:
        worker.stop()
