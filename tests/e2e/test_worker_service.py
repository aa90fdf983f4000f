"""``gearworker run`` as a service on the real gearmand: many jobs at once, faults, drains, health."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from support.servers import Gearmand, wait_until
from support.wire import Wire, request
from support.workers import WorkerProcess

from gearworker.protocol.packets import PacketType

pytestmark = pytest.mark.gearmand

StartGearmand = Callable[..., Gearmand]
StartWorker = Callable[..., WorkerProcess]

ECHO = """
    from gearworker import task

    @task
    def echo(job):
        return job.data
"""

LEDGER = """
    import gevent
    from gearworker import task

    @task
    def work(job):
        with open("started.log", "ab", buffering=0) as log:
            log.write(job.unique.encode() + b"\\n")
        gevent.sleep(float(job.data))
        with open("finished.log", "ab", buffering=0) as log:
            log.write(job.unique.encode() + b"\\n")
"""


def ledger(worker: WorkerProcess, name: str) -> list[str]:
    """The uniques that a worker noted."""
    path = worker.directory / f"{name}.log"
    return path.read_text().split() if path.exists() else []


def collect_results(wire: Wire, count: int) -> dict[bytes, bytes]:
    """The results of so many jobs, by handle; nothing else may come."""
    results = {}
    for _ in range(count):
        packet = wire.read()
        assert packet.type == PacketType.WORK_COMPLETE, packet
        results[packet.args[0]] = packet.args[1]
    return results


def submit_all(wire: Wire, task: bytes, payloads: list[bytes], kind: PacketType) -> dict[bytes, bytes]:
    """Submit jobs in one go; their payloads by handle. WORK_* of early ones must not come yet."""
    wire.send(*(request(kind, task, b"unique-%d" % number, data) for number, data in enumerate(payloads)))
    handles = {}
    for data in payloads:
        packet = wire.read()
        assert packet.type == PacketType.JOB_CREATED, packet
        handles[packet.args[0]] = data
    return handles


def test_a_hundred_jobs_at_once_end_out_of_order_with_the_right_results(
    gearmand: Gearmand, start_worker: StartWorker
) -> None:
    tasks = """
        import gevent
        from gearworker import task

        arrived, everybody = [], gevent.event.Event()

        @task
        def meet(job):
            arrived.append(job)
            if len(arrived) == 100:
                everybody.set()
            everybody.wait()
            gevent.sleep((100 - int(job.data)) / 1000)  # the later submitted, the earlier done
            return b"result of " + job.data
    """
    start_worker(gearmand, tasks=tasks.replace("import gevent\n", "import gevent, gevent.event\n"))
    wire = Wire(gearmand.port, timeout_s=15)
    handles = submit_all(wire, b"meet", [b"%d" % n for n in range(100)], PacketType.SUBMIT_JOB)
    results = collect_results(wire, 100)
    assert results == {handle: b"result of " + data for handle, data in handles.items()}
    assert list(results) != list(handles)


def test_five_thousand_jobs_held_on_one_connection_end_in_random_order(
    gearmand: Gearmand, start_worker: StartWorker
) -> None:
    tasks = """
        import random
        import gevent
        from gearworker import task
        from gevent.event import Event

        waiting = []

        def release():
            random.Random(7).shuffle(waiting)
            for event in waiting:
                event.set()
                gevent.sleep(0)

        @task
        def hold(job):
            waiting.append(event := Event())
            if len(waiting) == 5000:
                gevent.spawn(release)
            event.wait()
            return job.data * 2
    """
    start_worker(gearmand, tasks=tasks, pools={"default": {"concurrency": 5000}})
    wire = Wire(gearmand.port, timeout_s=30)
    handles = submit_all(wire, b"hold", [b"<%d>" % n for n in range(5000)], PacketType.SUBMIT_JOB)
    results = collect_results(wire, 5000)
    assert results == {handle: data * 2 for handle, data in handles.items()}
    assert list(results) != list(handles)


def test_an_idle_worker_leaves_jobs_for_others(gearmand: Gearmand, start_worker: StartWorker) -> None:
    workers = [start_worker(gearmand, tasks=LEDGER) for _ in range(2)]
    wire = Wire(gearmand.port)
    submit_all(wire, b"work", [b"0.3"] * 8, PacketType.SUBMIT_JOB_BG)
    wait_until(lambda: sum(len(ledger(worker, "finished")) for worker in workers) == 8, what="all jobs")
    assert all(ledger(worker, "started") for worker in workers)


def test_the_worker_is_back_after_gearmand_was_killed(gearmand: Gearmand, start_worker: StartWorker) -> None:
    worker = start_worker(gearmand, tasks=ECHO)
    gearmand.kill()
    wait_until(lambda: not worker.ready(), what="the worker to notice")
    gearmand.start()
    wait_until(worker.ready, 11.0, what="the worker to reconnect within the backoff's cap")
    wire = Wire(gearmand.port)
    wire.submit(b"echo", data=b"again", kind=PacketType.SUBMIT_JOB)
    assert wire.read().args[1] == b"again"
    assert worker.metric(f'gearworker_reconnects_total{{job_server="{gearmand.address}"}}') >= 1
    assert worker.metric(f'gearworker_job_server_up{{job_server="{gearmand.address}"}}') == 1


def test_a_result_never_goes_out_on_another_connection_than_its_job_came_on(
    gearmand: Gearmand, start_worker: StartWorker
) -> None:
    tasks = """
        import os
        import gevent
        from gearworker import task

        @task
        def wait(job):
            open("running", "w").close()
            while not os.path.exists("go"):
                gevent.sleep(0.01)
            return b"result of " + job.data
    """
    worker = start_worker(gearmand, tasks=tasks)
    Wire(gearmand.port).submit(b"wait", data=b"old", kind=PacketType.SUBMIT_JOB_BG)
    wait_until(lambda: (worker.directory / "running").exists(), what="the job to run")
    gearmand.restart()  # handles start over, so the next job has the same handle as the one still running
    wait_until(worker.ready, 11.0, what="the worker to reconnect")
    wire = Wire(gearmand.port)
    (worker.directory / "running").unlink()
    wire.submit(b"wait", data=b"new", kind=PacketType.SUBMIT_JOB)
    wait_until(lambda: (worker.directory / "running").exists(), what="the new job to run")
    (worker.directory / "go").touch()
    packet = wire.read()
    assert (packet.type, packet.args[1]) == (PacketType.WORK_COMPLETE, b"result of new")
    wait_until(lambda: worker.metric('gearworker_jobs_total{outcome="lost",task="wait"}') == 1, what="the lost job")


def test_sigterm_with_two_hundred_jobs_running_loses_and_repeats_none(
    gearmand: Gearmand, start_worker: StartWorker
) -> None:
    worker = start_worker(gearmand, tasks=LEDGER, pools={"default": {"concurrency": 200}})
    wire = Wire(gearmand.port)
    payloads = [b"%.3f" % (0.5 + number % 100 / 100) for number in range(400)]
    submit_all(wire, b"work", payloads, PacketType.SUBMIT_JOB_BG)
    wait_until(lambda: len(ledger(worker, "started")) >= 200, what="200 running jobs")
    worker.signal(signal.SIGTERM)
    assert worker.wait(10) == 0, worker.log
    started, finished = Counter(ledger(worker, "started")), Counter(ledger(worker, "finished"))
    assert started == finished
    assert max(started.values()) == 1
    assert gearmand.queue("work")[:2] == (400 - len(finished), 0)
    second = start_worker(gearmand, tasks=LEDGER, pools={"default": {"concurrency": 400}})
    wait_until(lambda: len(ledger(second, "finished")) == 400 - len(finished), what="the rest")
    assert not set(ledger(second, "started")) & set(started)
    assert "JOB_NOT_FOUND" not in worker.log + second.log


def test_a_drain_ends_with_the_grace_and_the_job_runs_elsewhere(gearmand: Gearmand, start_worker: StartWorker) -> None:
    worker = start_worker(gearmand, tasks=LEDGER, shutdown={"grace_s": 0.5})
    Wire(gearmand.port).submit(b"work", b"long", b"60")
    wait_until(lambda: ledger(worker, "started"), what="the job to run")
    worker.signal(signal.SIGTERM)
    assert worker.wait(5) == 3, worker.log
    wait_until(lambda: gearmand.queue("work") == (1, 0, 0), what="the job to be queued again")
    second = start_worker(gearmand, tasks=LEDGER)
    wait_until(lambda: ledger(second, "started") == ["long"], what="the job to run elsewhere")


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_stops_at_once(gearmand: Gearmand, start_worker: StartWorker, first: signal.Signals) -> None:
    worker = start_worker(gearmand, tasks=LEDGER)
    Wire(gearmand.port).submit(b"work", b"long", b"60")
    wait_until(lambda: ledger(worker, "started"), what="the job to run")
    worker.signal(first)
    wait_until(lambda: worker.get("/readyz")[0] == 503, what="draining to show")
    worker.signal(signal.SIGTERM)
    assert worker.wait(5) == 128 + signal.SIGTERM, worker.log


def test_a_stop_at_once_does_not_wait_for_a_native_thread(gearmand: Gearmand, start_worker: StartWorker) -> None:
    tasks = """
        import time
        from gearworker import task

        @task(None, thread=True)
        def block(job):
            open("running", "w").close()
            time.sleep(60)
    """
    worker = start_worker(gearmand, tasks=tasks)
    Wire(gearmand.port).submit(b"block")
    wait_until(lambda: (worker.directory / "running").exists(), what="the thread to run")
    worker.signal(signal.SIGQUIT)
    assert worker.wait(5) == 128 + signal.SIGQUIT, worker.log


def test_a_huge_payload_fails_once_and_harms_nobody(gearmand: Gearmand, start_worker: StartWorker) -> None:
    worker = start_worker(gearmand, tasks=ECHO, connection={"max_packet_bytes": "1MiB"})
    wire = Wire(gearmand.port, timeout_s=15)
    neighbour = Wire(gearmand.port, timeout_s=15)
    handle = wire.submit(b"echo", b"huge", b"x" * (16 * 1024 * 1024), kind=PacketType.SUBMIT_JOB)
    for number in range(20):
        neighbour.submit(b"echo", data=b"%d" % number, kind=PacketType.SUBMIT_JOB)
        assert neighbour.read().args[1] == b"%d" % number
    assert wire.read() == (PacketType.WORK_FAIL, [handle])
    wire.expect_nothing()
    assert worker.metric(f'gearworker_reconnects_total{{job_server="{gearmand.address}"}}') == 0, worker.log
    assert "over the limit" in worker.log


def test_handlers_that_raise_anything_end_their_job_and_nothing_else(
    gearmand: Gearmand, start_worker: StartWorker
) -> None:
    tasks = """
        import gevent
        from gearworker import task

        class Odd(Exception):
            def __str__(self):
                raise RuntimeError("no text")

        @task
        def throw(job):
            raise {
                b"exit": SystemExit(3), b"kill": gevent.GreenletExit(), b"interrupt": KeyboardInterrupt(),
                b"deep": RecursionError(), b"memory": MemoryError(), b"odd": Odd(),
            }[job.data]

        @task
        def echo(job):
            return job.data
    """
    worker = start_worker(gearmand, tasks=tasks, pools={"default": {"concurrency": 2}})
    wire = Wire(gearmand.port)
    wire.send(request(PacketType.OPTION_REQ, b"exceptions"))
    assert wire.read().type == PacketType.OPTION_RES
    kinds = [b"exit", b"kill", b"interrupt", b"deep", b"memory", b"odd"]
    submit_all(wire, b"throw", kinds, PacketType.SUBMIT_JOB)
    assert [wire.read().type for _ in kinds] == [PacketType.WORK_EXCEPTION] * len(kinds)
    wire.submit(b"echo", b"last", b"alive", kind=PacketType.SUBMIT_JOB)
    assert wire.read().args[1] == b"alive"
    assert worker.metric('gearworker_jobs_total{outcome="exception",task="throw"}') == len(kinds)


def test_a_hung_job_server_is_noticed_and_does_not_hold_up_the_others(
    start_gearmand: StartGearmand, start_worker: StartWorker
) -> None:
    hung, healthy = start_gearmand(), start_gearmand()
    worker = start_worker(
        hung, healthy, tasks=ECHO,
        pools={"default": {"concurrency": 2}},
        connection={"heartbeat_s": 1, "heartbeat_timeout_s": 2, "poll_s": 1},
    )  # fmt: skip
    up = f'gearworker_job_server_up{{job_server="{hung.address}"}}'
    wait_until(lambda: worker.metric(up) == 1, what="both job servers")
    hung.suspend()
    wire = Wire(healthy.port)
    deadline = time.monotonic() + 15
    served = 0
    while worker.metric(up) == 1:
        wire.submit(b"echo", data=b"still here", kind=PacketType.SUBMIT_JOB)
        assert wire.read().args[1] == b"still here"
        served += 1
        assert time.monotonic() < deadline, "the hung job server was not noticed"
    assert served > 0
    assert worker.ready()
    hung.resume()
    wait_until(lambda: worker.metric(up) == 1, 11.0, what="the job server that woke up")


def test_health_jobs_and_metrics_over_http(gearmand: Gearmand, start_worker: StartWorker) -> None:
    tasks = """
        import os
        import gevent
        from gearworker import task

        @task
        def wait(job):
            job.send_status(1, 3)
            while not os.path.exists("go"):
                gevent.sleep(0.01)
            job.send_data(b"12345")
            return b"123"
    """
    worker = start_worker(gearmand, tasks=tasks)
    assert worker.get("/livez") == (200, "alive\n")
    assert worker.get("/healthz") == (200, "alive\n")
    assert worker.get("/nowhere")[0] == 404
    assert worker.get("/metrics", method="POST")[0] == 405
    handle = Wire(gearmand.port).submit(b"wait", data=b"12").decode()
    wait_until(lambda: json.loads(worker.get("/jobs")[1])["jobs"], what="the job to run")
    (job,) = json.loads(worker.get("/jobs")[1])["jobs"]
    assert (job["task"], job["handle"], job["pool"]) == ("wait", handle, "default")
    assert job["progress"] == {"numerator": 1, "denominator": 3}
    assert handle in worker.get("/")[1]
    assert worker.metric('gearworker_jobs_in_progress{task="wait"}') == 1
    (worker.directory / "go").touch()
    wait_until(lambda: worker.metric('gearworker_jobs_total{outcome="complete",task="wait"}') == 1, what="its end")
    for sample, value in {
        'gearworker_jobs_in_progress{task="wait"}': 0,
        'gearworker_job_packets_total{task="wait",type="data"}': 1,
        'gearworker_job_packets_total{task="wait",type="status"}': 1,
        'gearworker_job_bytes_total{direction="in",task="wait"}': 2,
        'gearworker_job_bytes_total{direction="out",task="wait"}': 8,
        'gearworker_job_duration_seconds_count{task="wait"}': 1,
        'gearworker_pool_slots{pool="default",state="running"}': 0,
    }.items():
        assert worker.metric(sample) == value, sample
    assert worker.get("/metrics", accept="application/openmetrics-text")[1].endswith("# EOF\n")


def test_pools_bound_their_own_tasks(gearmand: Gearmand, start_worker: StartWorker, tmp_path: Path) -> None:
    tasks = """
        import gevent
        from gearworker import task

        now = {"slow": 0, "quick": 0}
        most = dict(now)

        def count(job):
            now[job.task] += 1
            most[job.task] = max(most[job.task], now[job.task])
            gevent.sleep(0.05)
            now[job.task] -= 1
            return str(most[job.task])

        slow = task("slow", encoder="text")(count)
        quick = task("quick", encoder="text")(lambda job: count(job))
    """
    start_worker(gearmand, tasks=tasks, pools={"few": {"concurrency": 2, "tasks": ["sl*"]}, "default": {}})
    wire = Wire(gearmand.port)
    slow = submit_all(wire, b"slow", [b"x"] * 10, PacketType.SUBMIT_JOB)
    assert max(map(int, collect_results(wire, len(slow)).values())) == 2
    quick = submit_all(wire, b"quick", [b"x"] * 10, PacketType.SUBMIT_JOB)
    assert max(map(int, collect_results(wire, len(quick)).values())) > 2
