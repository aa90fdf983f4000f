"""The service around the processes: systemd's notify socket, the endpoint under pressure, the resources it takes."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.servers import HOST, Gearmand, wait_until
from support.wire import Wire
from support.workers import WorkerProcess

from gearworker.protocol.packets import PacketType

pytestmark = pytest.mark.gearmand

StartWorker = Callable[..., WorkerProcess]

MAX_RSS_BYTES = 45 * 1024 * 1024

TASKS = """
    from gearworker import task
    from gevent.monkey import get_original

    @task
    def echo(job):
        return job.data

    @task
    def block(job):
        get_original("time", "sleep")(float(job.data))
"""


class NotifySocket:
    """What systemd listens on: every message that a service sent."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.messages: list[str] = []
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(str(path))
        self._sock.setblocking(False)

    def read(self) -> list[str]:
        """All messages so far."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self.messages.append(self._sock.recv(65536).decode())
        return self.messages

    def count(self, line: str) -> int:
        """How many messages had this line."""
        return sum(line in message.splitlines() for message in self.read())

    def close(self) -> None:
        """End it."""
        self._sock.close()


@pytest.fixture
def notify_socket(tmp_path: Path) -> Iterator[NotifySocket]:
    """A notify socket."""
    made = NotifySocket(tmp_path / "notify")
    yield made
    made.close()


def resident_bytes(pid: int) -> int:
    """The memory that a process has in use."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_systemd_is_told_of_every_state(
    gearmand: Gearmand, start_worker: StartWorker, notify_socket: NotifySocket
) -> None:
    worker = start_worker(gearmand, tasks=TASKS, environ={"NOTIFY_SOCKET": str(notify_socket.path)})
    wait_until(lambda: notify_socket.count("READY=1") == 1, what="READY=1")
    wait_until(
        lambda: any("STATUS=1 of 1 processes ready" in message for message in notify_socket.read()), what="the status"
    )
    worker.signal(signal.SIGHUP)
    wait_until(lambda: notify_socket.count("RELOADING=1") == 1, what="RELOADING=1")
    wait_until(lambda: notify_socket.count("READY=1") == 2, what="READY=1 again")
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    assert notify_socket.count("STOPPING=1") == 1
    assert notify_socket.count("WATCHDOG=1") == 0  # nobody asked for it


def test_the_watchdog_is_fed_and_fed_again_after_a_blocked_worker_was_replaced(
    gearmand: Gearmand, start_worker: StartWorker, notify_socket: NotifySocket
) -> None:
    environ = {"NOTIFY_SOCKET": str(notify_socket.path), "WATCHDOG_USEC": "200000"}
    worker = start_worker(gearmand, tasks=TASKS, environ=environ, watchdog={"warn_s": 0.5, "blocked_s": 1.5})
    wait_until(lambda: notify_socket.count("WATCHDOG=1") >= 5, what="a fed watchdog")
    worker_pid = int(next(iter(Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split())))
    os.kill(worker_pid, signal.SIGSTOP)
    wait_until(lambda: worker.metric('gearworker_process_restarts_total{reason="blocked"}') == 1, what="a replacement")
    fed = notify_socket.count("WATCHDOG=1")
    wait_until(lambda: notify_socket.count("WATCHDOG=1") > fed, what="a watchdog fed again")


def test_the_endpoint_answers_while_every_hub_is_blocked(gearmand: Gearmand, start_worker: StartWorker) -> None:
    worker = start_worker(gearmand, tasks=TASKS, processes=2)
    wait_until(lambda: worker.metric('gearworker_processes{state="ready"}') == 2, what="two processes")
    wire = Wire(gearmand.port)
    for number in range(2):
        wire.submit(b"block", b"block-%d" % number, b"20")
        wait_until(lambda: gearmand.queue("block")[1] > number, what="the job to run")  # noqa: B023
    wait_until(lambda: worker.log.count("it is blocked in") == 2, what="both hubs to be blocked")
    for path in ("/livez", "/jobs", "/"):
        assert worker.get(path)[0] == 200, path
    assert worker.metric('gearworker_processes{state="running"}') == 2
    worker.signal(signal.SIGQUIT)
    assert worker.wait() == 128 + signal.SIGQUIT


def test_slow_clients_do_not_pile_up(gearmand: Gearmand, start_worker: StartWorker) -> None:
    worker = start_worker(gearmand, tasks=TASKS)
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection((HOST, worker.http_port))) for _ in range(200)]
        for sock in slow:
            sock.sendall(b"GET /metrics HT")
        assert worker.get("/livez") == (200, "alive\n")
        slow[0].settimeout(5)
        assert slow[0].recv(1) == b""  # the oldest had to go
        open_sockets = len(os.listdir(f"/proc/{worker.pid}/fd"))
        assert open_sockets < 150


def test_queue_depths_are_shown(gearmand: Gearmand, start_worker: StartWorker) -> None:
    worker = start_worker(gearmand, tasks=TASKS, pools={"default": {"concurrency": 1}}, watchdog={"warn_s": 0})
    wire = Wire(gearmand.port)
    for number in range(5):
        wire.submit(b"stranger", b"s%d" % number)
        wire.submit(b"block", b"b%d" % number, b"3")
    wait_until(lambda: worker.metric('gearworker_queue_jobs{state="queued",task="block"}') == 4, what="the queue")
    assert worker.metric('gearworker_queue_jobs{state="running",task="block"}') == 1
    assert worker.metric('gearworker_queue_workers{task="block"}') == 1
    assert "stranger" not in worker.get("/metrics")[1]


def test_supervisor_and_worker_stay_small(gearmand: Gearmand, start_worker: StartWorker) -> None:
    worker = start_worker(gearmand, tasks=TASKS)
    (child,) = Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()
    worker.get("/metrics")
    assert resident_bytes(worker.pid) <= MAX_RSS_BYTES
    assert resident_bytes(int(child)) <= MAX_RSS_BYTES


def test_without_a_supervisor_the_worker_runs_in_this_process(
    gearmand: Gearmand, start_worker: StartWorker, notify_socket: NotifySocket
) -> None:
    worker = start_worker(gearmand, tasks=TASKS, processes=0, environ={"NOTIFY_SOCKET": str(notify_socket.path)})
    assert Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text() == ""
    wire = Wire(gearmand.port)
    wire.submit(b"echo", data=b"here", kind=PacketType.SUBMIT_JOB)
    assert wire.read().args[1] == b"here"
    assert worker.metric('gearworker_jobs_total{outcome="complete",task="echo"}') == 1
    assert worker.metric('gearworker_queue_workers{task="echo"}') == 1
    worker.signal(signal.SIGUSR2)
    wait_until(lambda: "stacks of all greenlets" in worker.log, what="the stacks")
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    assert (notify_socket.count("READY=1"), notify_socket.count("STOPPING=1")) == (1, 1)


@pytest.mark.parametrize("processes", [0, 1])
def test_an_embedded_job_server_whose_port_is_in_use(
    gearmand: Gearmand, start_worker: StartWorker, processes: int
) -> None:
    worker = start_worker(tasks=TASKS, wait=False, processes=processes, job_servers=[f"embedded:{gearmand.port}"])
    assert worker.wait() == 2
    assert "config.yaml:1: job_servers: the embedded job server at" in worker.log
    assert "Traceback" not in worker.log
