"""Promises under faults: a ledger of acknowledged jobs against a log of executions, on the real gearmand."""

from __future__ import annotations

import os
import random
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from support.servers import Gearmand, sqlite_queue, wait_until
from support.wire import Wire, request
from support.workers import WorkerProcess

from gearworker.protocol.packets import PacketType

pytestmark = pytest.mark.gearmand

StartGearmand = Callable[..., Gearmand]
StartWorker = Callable[..., WorkerProcess]

LEDGER = """
    import gevent
    from gearworker import task

    log = open("executions.log", "ab", buffering=0)

    @task
    def work(job):
        log.write(job.unique.encode() + b"\\n")
        if job.data != b"0":
            gevent.sleep(float(job.data))
        return job.data
"""


def executions(worker: WorkerProcess) -> Counter[str]:
    """How often each unique was executed."""
    path = worker.directory / "executions.log"
    return Counter(path.read_text().split() if path.exists() else [])


def submit_until_acknowledged(port: int, uniques: list[bytes], data: bytes) -> None:
    """Submit background jobs; a job server that is away is tried again, and asked for what it did not acknowledge."""
    open_uniques = list(uniques)
    deadline = time.monotonic() + 60
    while open_uniques:
        assert time.monotonic() < deadline, f"{len(open_uniques)} jobs were never acknowledged"
        try:
            wire = Wire(port)
            batch = open_uniques[:100]
            wire.send(*(request(PacketType.SUBMIT_JOB_BG, b"work", unique, data) for unique in batch))
            for _ in batch:
                assert wire.read().type == PacketType.JOB_CREATED
                open_uniques.pop(0)
            wire.close()
        except (OSError, AssertionError):
            wait_until(lambda: _listens(port), 20, what="the job server")


def _listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def test_no_acknowledged_background_job_is_lost_when_gearmand_is_killed(
    start_gearmand: StartGearmand, start_worker: StartWorker, tmp_path: Path
) -> None:
    gearmand = start_gearmand(*sqlite_queue(tmp_path))
    worker = start_worker(gearmand, tasks=LEDGER, connection={"reconnect_max_s": 0.5})
    uniques = [b"job-%d" % number for number in range(3000)]
    for kill in range(3):
        submit_until_acknowledged(gearmand.port, uniques[kill * 1000 : (kill + 1) * 1000], b"0.02")
        wait_until(lambda: len(executions(worker)) > kill * 1000 + 200, 30, what="running jobs")  # noqa: B023
        gearmand.restart()
    wait_until(lambda: len(executions(worker)) == len(uniques), 60, what="every job")
    wait_until(lambda: gearmand.queue("work")[:2] == (0, 0), 30, what="an empty queue")
    ran = executions(worker)
    assert set(ran) == {unique.decode() for unique in uniques}
    repeated = sum(times - 1 for times in ran.values())
    assert repeated <= 3 * 200, f"{repeated} jobs ran again"


def test_no_foreground_result_is_lost_when_workers_are_killed(gearmand: Gearmand, start_worker: StartWorker) -> None:
    worker = start_worker(gearmand, tasks=LEDGER, pools={"default": {"concurrency": 50}})
    wire = Wire(gearmand.port, timeout_s=30)
    count = 600
    wire.send(*(request(PacketType.SUBMIT_JOB, b"work", b"fg-%d" % n, b"0.05") for n in range(count)))
    handles, results = set(), Counter[bytes]()
    kills = 0
    while sum(results.values()) < count:
        packet = wire.read()
        if packet.type == PacketType.JOB_CREATED:
            handles.add(packet.args[0])
        else:
            assert packet.type == PacketType.WORK_COMPLETE
            results[packet.args[0]] += 1
        if kills < 3 and sum(results.values()) > (kills + 1) * 120:
            kills += 1
            children = Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()
            for pid in children:
                os.kill(int(pid), signal.SIGKILL)
    assert kills == 3
    assert set(results) == handles
    assert max(results.values()) == 1


@pytest.mark.parametrize("wakeup", [0, 1])
def test_no_wake_up_is_lost(start_gearmand: StartGearmand, start_worker: StartWorker, wakeup: int) -> None:
    poll_s = 2
    gearmand = start_gearmand("--worker-wakeup", str(wakeup))
    for _ in range(3):
        start_worker(gearmand, tasks=LEDGER, processes=0, http=None, wait=False, connection={"poll_s": poll_s})
    wait_until(lambda: gearmand.queue("work")[2] == 3, what="three workers")
    chance, wire, waits = random.Random(wakeup), Wire(gearmand.port), []
    for number in range(1500):
        began = time.monotonic()
        wire.submit(b"work", b"w-%d" % number, b"0", kind=PacketType.SUBMIT_JOB)
        assert wire.read().type == PacketType.WORK_COMPLETE
        waits.append(time.monotonic() - began)
        if chance.random() < 0.05:
            time.sleep(chance.random() * 0.01)  # a pause in the load, not a wait for anything
    assert max(waits) <= (0.5 if wakeup == 0 else poll_s + 1), f"one job waited {max(waits):.2f} s"


def test_a_job_server_that_does_not_read_holds_up_handlers_not_memory(
    gearmand: Gearmand, start_worker: StartWorker
) -> None:
    tasks = """
        import os
        import gevent
        from gearworker import task

        @task
        def pour(job):
            while not os.path.exists("go"):
                gevent.sleep(0.01)
            for _ in range(200):
                job.send_data(b"x" * 65536)
    """
    worker = start_worker(gearmand, tasks=tasks, processes=0, connection={"heartbeat_s": 60})
    before = _rss(worker.pid)
    wire = Wire(gearmand.port)
    for number in range(20):
        wire.submit(b"pour", b"p-%d" % number)
    wait_until(lambda: worker.metric('gearworker_jobs_in_progress{task="pour"}') == 20, what="the handlers to pour")
    gearmand.suspend()
    (worker.directory / "go").touch()
    sent = 'gearworker_job_packets_total{task="pour",type="data"}'
    try:
        wait_until(lambda: worker.metric(sent) > 0, what="the handlers to pour")
        seen = [0.0, 1.0]
        wait_until(lambda: seen.append(worker.metric(sent)) or len(set(seen[-5:])) == 1, what="a standstill")
        assert seen[-1] < 20 * 200
        # 250 MiB were to be poured; what is in memory is the output's high-water mark and a packet for each handler.
        assert _rss(worker.pid) - before < 32 * 1024 * 1024
        assert worker.get("/livez")[0] == 200
    finally:
        gearmand.resume()
    wait_until(lambda: worker.metric('gearworker_jobs_total{outcome="complete",task="pour"}') == 20, 30, what="the end")
    assert worker.metric(sent) == 20 * 200


def test_payloads_in_hand_stay_within_their_budget(gearmand: Gearmand, start_worker: StartWorker) -> None:
    tasks = """
        import gevent
        from gearworker import task

        @task
        def hold(job):
            gevent.sleep(0.05)
            return b"%d" % len(job.data)
    """
    worker = start_worker(gearmand, tasks=tasks, processes=0, max_in_flight_bytes="32MiB")
    before = _rss(worker.pid)
    wire = Wire(gearmand.port, timeout_s=30)
    for number in range(60):
        wire.submit(b"hold", b"h-%d" % number, b"x" * (4 * 1024 * 1024))
    peaks = [0]
    done = 'gearworker_jobs_total{outcome="complete",task="hold"}'
    wait_until(lambda: peaks.append(_rss(worker.pid)) or worker.metric(done) == 60, 60, what="every job")
    assert max(peaks) - before <= 1.5 * 32 * 1024 * 1024 + 16 * 1024 * 1024


def test_reconnecting_leaks_nothing(gearmand: Gearmand, start_worker: StartWorker) -> None:
    worker = start_worker(gearmand, tasks=LEDGER, processes=0, connection={"reconnect_max_s": 0.01})
    reconnects = f'gearworker_reconnects_total{{job_server="{gearmand.address}"}}'

    def cut(times: int) -> None:
        for _ in range(times):
            before = worker.metric(reconnects)
            gearmand.restart()
            wait_until(lambda: worker.metric(reconnects) > before, what="a new connection")  # noqa: B023

    cut(3)
    base = len(os.listdir(f"/proc/{worker.pid}/fd"))
    cut(15)
    assert len(os.listdir(f"/proc/{worker.pid}/fd")) <= base + 2


def test_a_job_server_that_is_away_costs_little(gearmand: Gearmand, start_worker: StartWorker) -> None:
    worker = start_worker(gearmand, tasks=LEDGER, processes=0)
    gearmand.kill()
    wait_until(lambda: "lost job server" in worker.log, what="the loss to be noticed")
    began, cpu = time.monotonic(), _cpu_s(worker.pid)
    wait_until(lambda: time.monotonic() - began > 3, what="three seconds of absence")
    assert (_cpu_s(worker.pid) - cpu) / 3 < 0.1
    assert worker.log.count("no job server at") <= 1
    gearmand.start()
    wait_until(worker.ready, 11, what="the worker to be back within the backoff's cap")


def _rss(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
