"""A worker process as the supervisor sees it, with small programs in the place of the real one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.event import Event

from gearworker.service.channel import Start
from gearworker.service.process import Process, describe_exit

ROOT = Path(__file__).parents[2]
START = Start("tasks: [t]", "config.yaml", "info", "text")
PRELUDE = """
import faulthandler, os, signal, socket, sys, time
sys.path.insert(0, {root!r})
from gearworker.counts import WorkerCounts
from gearworker.service.channel import *
from gearworker.service.child import STACK_SIGNAL
stack_fd = int(sys.argv[2])
sock = socket.socket(fileno=int(sys.argv[1]))
sock.setblocking(True)  # the supervisor made it, with gevent's way of waiting
channel = Channel(sock)
start = channel.receive()
"""

Run = Callable[..., Process]


class Changes:
    """What processes call when something about them has changed."""

    def __init__(self) -> None:
        self.event = Event()

    def __call__(self) -> None:
        self.event.set()


def wait_for(condition: Callable[[], Any], deadline_s: float = 15.0) -> None:
    with gevent.Timeout(deadline_s):
        while not condition():
            gevent.sleep(0.01)


def descriptors() -> list[str]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{name}").split(":")[0])
        except OSError:
            continue  # the one that reads the directory
    return sorted(found)


def children() -> str:
    return "".join(path.read_text() for path in Path("/proc/self/task").glob("*/children"))


@pytest.fixture
def run() -> Iterator[Run]:
    """Start a process that runs a piece of Python after the handshake, or a shell's command."""
    started: list[Process] = []

    def make(code: str = "", *, shell: str = "", changed: Callable[[], None] = lambda: None) -> Process:
        source = PRELUDE.format(root=str(ROOT)) + textwrap.dedent(code)
        program = ["/bin/sh", "-c", shell, "sh"] if shell else [sys.executable, "-c", source]
        started.append(Process(START, changed, program))
        return started[-1]

    yield make
    for process in started:
        process.kill()
        wait_for(lambda process=process: process.exit_code is not None)


def test_it_is_told_what_to_run_and_its_beats_and_reports_are_taken(run: Run) -> None:
    changes = Changes()
    process = run(
        """
        assert start == Start("tasks: [t]", "config.yaml", "info", "text")
        channel.send(Beat(False))
        request = channel.receive()
        channel.send(Beat(True))
        channel.send(Report(request.number, WorkerCounts(hub_lag_s=0.5), []))
        time.sleep(60)
        """,
        changed=changes,
    )
    assert process.silent_s == 0.0
    assert changes.event.wait(15)
    assert process.beat_at is not None
    assert not process.ready
    process.ask_report().get(timeout=15)
    assert process.ready
    assert process.counts.hub_lag_s == 0.5
    assert process.rss_bytes > 1024 * 1024
    assert process.cpu_s >= 0


@pytest.mark.parametrize(
    ("shell", "code", "words"),
    [
        ("exit 0", 0, "exit code 0"),
        ("exit 9", 9, "exit code 9"),
        ("kill -SEGV $$", -signal.SIGSEGV, "killed by SIGSEGV"),
        ("kill -KILL $$", -signal.SIGKILL, "killed by SIGKILL"),
    ],
)
def test_how_it_ended_is_known(run: Run, shell: str, code: int, words: str) -> None:
    changes = Changes()
    process = run(shell=shell, changed=changes)
    assert changes.event.wait(15)
    assert process.exit_code == code
    assert describe_exit(code) == words
    assert (process.ready, process.jobs, process.silent_s, process.rss_bytes, process.cpu_s) == (False, [], 0, 0, 0)


def test_a_number_that_is_no_signal_is_named_by_it() -> None:
    assert describe_exit(-250) == "killed by signal 250"


def test_orders_to_a_process_that_has_ended_do_nothing(run: Run) -> None:
    process = run(shell="exit 0")
    wait_for(lambda: process.exit_code is not None)
    process.drain("stopped", 1)
    process.stop_at_once()
    process.log_stacks()
    process.kill()
    process.ask_report().get(timeout=1)
    assert "no stack" in process.take_blocked_stack()


def test_whoever_waits_for_a_report_is_freed_by_the_end(run: Run) -> None:
    process = run("channel.receive()\nos._exit(9)")
    process.ask_report().get(timeout=15)
    assert process.exit_code == 9


def test_one_that_can_not_be_understood_is_killed(run: Run) -> None:
    process = run("sock.sendall(b'\\xff' * 100)\ntime.sleep(60)")
    wait_for(lambda: process.exit_code is not None)
    assert process.exit_code == -signal.SIGKILL


def test_last_words_are_read_though_a_forked_child_holds_the_channel(run: Run) -> None:
    changes = Changes()
    process = run(
        """
        if os.fork() == 0:
            time.sleep(5)
            os._exit(0)
        channel.send(Report(0, WorkerCounts(hub_lag_s=0.75), []))
        os._exit(0)
        """,
        changed=changes,
    )
    assert changes.event.wait(4)  # not only when the forked child ends
    assert process.exit_code == 0
    assert process.counts.hub_lag_s == 0.75


def test_drain_and_at_once_reach_it(run: Run) -> None:
    drained = run("assert isinstance(channel.receive(), Drain)\nos._exit(5)")
    drained.drain("recycled", 7)
    drained.drain("replaced", 700)  # the first reason and grace stay
    assert drained.retiring == "recycled"
    assert drained.kill_at == pytest.approx(drained.started_at + 7, abs=2)
    wait_for(lambda: drained.exit_code is not None)
    assert drained.exit_code == 5
    stopped = run("time.sleep(60)")
    stopped.stop_at_once()
    wait_for(lambda: stopped.exit_code is not None)
    assert stopped.exit_code == -signal.SIGQUIT


def test_every_blocked_stack_is_its_own_and_they_do_not_pile_up(run: Run) -> None:
    process = run(
        """
        def guilty():
            time.sleep(60)
        faulthandler.register(STACK_SIGNAL, file=stack_fd, all_threads=False)
        channel.send(Beat(True))
        channel.receive()
        guilty()
        """
    )
    wait_for(lambda: process.beat_at is not None)
    first = process.take_blocked_stack()
    process.log_stacks()
    wait_for(lambda: "in guilty" in process.take_blocked_stack())
    second = process.take_blocked_stack()
    assert "in receive" in first
    assert "in guilty" in second
    assert second.count("most recent call first") == 1
    assert os.fstat(process._stack_fd).st_size < 4096


def test_a_stack_that_nobody_writes_is_not_waited_for_long(run: Run) -> None:
    process = run("signal.signal(STACK_SIGNAL, signal.SIG_IGN)\nchannel.send(Beat(True))\ntime.sleep(60)")
    wait_for(lambda: process.beat_at is not None)
    with gevent.Timeout(5):
        assert process.take_blocked_stack() == "(the interpreter wrote no stack)"


def test_a_process_that_ends_while_its_stack_is_read(run: Run) -> None:
    process = run("signal.signal(STACK_SIGNAL, signal.SIG_DFL)\nchannel.send(Beat(True))\ntime.sleep(60)")
    wait_for(lambda: process.beat_at is not None)
    assert process.take_blocked_stack() == "(the interpreter wrote no stack)"  # the signal itself ended it
    wait_for(lambda: process.exit_code is not None)
    assert process.exit_code == -signal.SIGRTMIN


def test_twenty_restarts_leave_neither_descriptors_nor_zombies(run: Run) -> None:
    first = run(shell="exit 0")  # brings what the rest of the process's life has
    wait_for(lambda: first.exit_code is not None)
    before, children_before = descriptors(), children()
    for number in range(20):
        process = run(shell=("exit 0", "exit 3", "kill -KILL $$")[number % 3])
        process.ask_report()
        wait_for(lambda process=process: process.exit_code is not None)  # type: ignore[misc]
    assert descriptors() == before
    assert children() == children_before


def test_a_program_that_is_not_there_leaves_no_descriptors() -> None:
    before = descriptors()
    for _ in range(3):
        with pytest.raises(OSError, match="No such file"):
            Process(START, lambda: None, ["/nowhere/at/all"])
    assert descriptors() == before


ORPHANS = """
import ctypes, os, sys, time
from pathlib import Path
import gevent
from gearworker.service.channel import Start
from gearworker.service.process import Process
if os.getpid() != 1:
    assert ctypes.CDLL(None, use_errno=True).prctl(36, 1, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER
program = ["/bin/sh", "-c", "sleep 1.5 & sleep 1.5 & exit 0", "sh"]
process = Process(Start("t", "f", "info", "text"), lambda: None, program)
def children():
    return Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
def wait_for(condition):
    with gevent.Timeout(15):
        while not condition():
            gevent.sleep(0.01)
wait_for(lambda: process.exit_code is not None)
print("adopted", len(children()), flush=True)
wait_for(lambda: not children())
again = Process(Start("t", "f", "info", "text"), lambda: None, ["/bin/sh", "-c", "exit 7", "sh"])
wait_for(lambda: again.exit_code is not None)
print("pid", os.getpid(), "left", len(children()), "code", again.exit_code)
"""


def run_orphans(*prefix: str) -> list[str]:
    done = subprocess.run(
        [*prefix, sys.executable, "-c", ORPHANS],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_orphans_that_come_to_the_supervisor_are_reaped() -> None:
    adopted, left = run_orphans()[1], run_orphans()[5]
    assert (adopted, left) == ("2", "0")


def test_as_the_first_process_of_a_container_too() -> None:
    prefix = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc")
    try:
        usable = subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        usable = False
    if not usable:
        pytest.skip("needs unshare (Debian: util-linux) and the right to make a PID namespace")
    assert run_orphans(*prefix) == ["adopted", "2", "pid", "1", "left", "0", "code", "7"]
