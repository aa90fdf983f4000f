"""The supervisor on real processes and the real gearmand: crashes, blocked hubs, reloads, recycling, stops."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from support.servers import Gearmand, wait_until
from support.wire import Wire, request
from support.workers import WorkerProcess

from gearworker.protocol.packets import PacketType

pytestmark = pytest.mark.gearmand

StartWorker = Callable[..., WorkerProcess]

TASKS = """
    import os
    import time
    import gevent
    from gearworker import task
    from gevent.monkey import get_original

    def note(name, job):
        with open(name + ".log", "ab", buffering=0) as log:
            log.write(job.unique.encode() + b"\\n")

    @task
    def work(job):
        note("started", job)
        gevent.sleep(float(job.data or 0))
        note("finished", job)
        return b"%d" % os.getpid()

    @task
    def die_once(job):
        if not os.path.exists("died"):
            open("died", "w").close()
            os._exit(9)
        return b"survived"

    @task
    def block_in_c(job):
        get_original("time", "sleep")(float(job.data))

    @task
    def block_in_a_loop(job):
        until = time.monotonic() + float(job.data)
        while time.monotonic() < until:
            pass

    @task
    def grow(job):
        global hoard
        hoard = bytearray(int(job.data))
        return b"%d" % os.getpid()

    @task
    def leave_a_child(job):
        if os.fork() == 0:
            open("child.pid.new", "w").write(str(os.getpid()))
            os.rename("child.pid.new", "child.pid")
            get_original("time", "sleep")(60)
            os._exit(0)
        return b"forked"
"""


def uniques(worker: WorkerProcess, name: str) -> Counter[str]:
    """The uniques of jobs that were started or finished, with how often."""
    path = worker.directory / f"{name}.log"
    return Counter(path.read_text().split() if path.exists() else [])


def children(pid: int) -> set[int]:
    """The processes that a process has started."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.add(int(stat.parent.name))
    return found


def alive(pid: int) -> bool:
    """Whether a process lives."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def processes(worker: WorkerProcess, state: str = "ready") -> int:
    """How many worker processes there are in a state."""
    return int(worker.metric(f'gearworker_processes{{state="{state}"}}'))


def restarts(worker: WorkerProcess, reason: str) -> int:
    """How many processes were started in place of another."""
    return int(worker.metric(f'gearworker_process_restarts_total{{reason="{reason}"}}'))


def submit(port: int, count: int, seconds: str, first: int = 0) -> None:
    """Submit background jobs of so many seconds."""
    wire = Wire(port)
    packets = (
        request(PacketType.SUBMIT_JOB_BG, b"work", b"u%d" % n, seconds.encode()) for n in range(first, first + count)
    )
    wire.send(*packets)
    for _ in range(count):
        assert wire.read().type == PacketType.JOB_CREATED
    wire.close()


def wait_for_all(worker: WorkerProcess, count: int, deadline_s: float = 20.0) -> None:
    """Wait until so many jobs have finished."""
    wait_until(lambda: len(uniques(worker, "finished")) >= count, deadline_s, what=f"{count} finished jobs")


def assert_each_ran_once(worker: WorkerProcess, count: int) -> None:
    """No job was lost, none ran twice."""
    started, finished = uniques(worker, "started"), uniques(worker, "finished")
    assert len(finished) == count
    assert max(started.values()) == 1, [unique for unique, times in started.items() if times > 1]


def test_several_processes_share_the_work(gearmand: Gearmand, start_worker: StartWorker) -> None:
    worker = start_worker(gearmand, tasks=TASKS, processes=2)
    wait_until(lambda: processes(worker) == 2, what="two processes")
    submit(gearmand.port, 40, "0.05")
    wait_for_all(worker, 40)
    assert worker.metric('gearworker_jobs_total{outcome="complete",task="work"}') == 40
    assert worker.metric('gearworker_pool_slots{pool="default",state="free"}') == 200
    assert worker.metric('gearworker_queue_workers{task="work"}') == 2


def test_a_killed_process_is_replaced_and_its_jobs_run_again(gearmand: Gearmand, start_worker: StartWorker) -> None:
    worker = start_worker(gearmand, tasks=TASKS)
    (first,) = children(worker.pid)
    submit(gearmand.port, 10, "0.1")
    wait_for_all(worker, 10)
    counted = 'gearworker_jobs_total{outcome="complete",task="work"}'
    wait_until(lambda: worker.metric(counted) == 10, what="the count")
    submit(gearmand.port, 10, "0.5", first=10)
    wait_until(lambda: len(uniques(worker, "started")) == 20, what="running jobs")
    os.kill(first, signal.SIGKILL)
    wait_for_all(worker, 20)
    (second,) = children(worker.pid)
    assert second != first
    assert restarts(worker, "crash") == 1
    assert worker.metric(counted) >= 20  # what the first one counted is still there
    assert worker.metric('gearworker_jobs_in_progress{task="work"}') == 0
    assert "killed by SIGKILL" in worker.log


def test_a_handler_that_ends_the_process(gearmand: Gearmand, start_worker: StartWorker) -> None:
    worker = start_worker(gearmand, tasks=TASKS)
    wire = Wire(gearmand.port, timeout_s=15)
    wire.submit(b"die_once", kind=PacketType.SUBMIT_JOB)
    assert wire.read().args[1] == b"survived"
    assert "ended unexpectedly: exit code 9" in worker.log


@pytest.mark.parametrize("handler", ["block_in_c", "block_in_a_loop"])
def test_a_blocked_hub_is_reported_with_its_stack_and_replaced(
    gearmand: Gearmand, start_worker: StartWorker, handler: str
) -> None:
    watchdog = {"warn_s": 0.5, "blocked_s": 2.5}
    worker = start_worker(gearmand, tasks=TASKS, watchdog=watchdog)
    (first,) = children(worker.pid)
    Wire(gearmand.port).submit(handler.encode(), data=b"60")
    wait_until(lambda: "it is blocked in" in worker.log, 1.5 + 0.5, what="the report")
    assert f"in {handler}" in worker.log
    assert worker.get("/livez")[0] == 200  # blocked, but within the limit
    assert 'gearworker_processes{state="wanted"} 1.0' in worker.get("/metrics")[1]
    wait_until(lambda: restarts(worker, "blocked") == 1, what="the process to be replaced")
    wait_until(lambda: children(worker.pid) - {first}, what="another process")
    assert not alive(first)


def test_liveness_is_back_when_a_process_past_its_limit_was_replaced(
    gearmand: Gearmand, start_worker: StartWorker
) -> None:
    worker = start_worker(gearmand, tasks=TASKS, watchdog={"warn_s": 0.5, "blocked_s": 1})
    (first,) = children(worker.pid)
    os.kill(first, signal.SIGSTOP)
    codes = set()
    wait_until(lambda: codes.add(worker.get("/livez")[0]) or restarts(worker, "blocked"), what="the replacement")
    assert codes <= {200, 503}  # never without an answer; 503 only from the limit to the kill
    wait_until(lambda: worker.get("/livez")[0] == 200, what="liveness again")
    assert not alive(first)


def test_a_reload_under_load_loses_and_repeats_nothing(gearmand: Gearmand, start_worker: StartWorker) -> None:
    worker = start_worker(gearmand, tasks=TASKS, processes=2, pools={"default": {"concurrency": 500}})
    wait_until(lambda: processes(worker) == 2, what="two processes")
    before = children(worker.pid)
    submit(gearmand.port, 2000, "1")
    wait_until(lambda: len(uniques(worker, "started")) >= 1000, what="a thousand running jobs")
    source = worker.directory / "tasks_under_test.py"
    source.write_text(source.read_text().replace('b"survived"', 'b"new code"'))
    serving = []
    worker.signal(signal.SIGHUP)
    wait_until(
        lambda: serving.append(worker.get("/readyz")[0]) or "every process runs" in worker.log, what="the reload"
    )
    assert set(serving) == {200}
    wait_for_all(worker, 2000)
    wait_until(lambda: not children(worker.pid) & before, what="the old processes to end")
    assert_each_ran_once(worker, 2000)
    assert gearmand.queue("work")[:2] == (0, 0)
    (worker.directory / "died").touch()
    wire = Wire(gearmand.port)
    wire.submit(b"die_once", kind=PacketType.SUBMIT_JOB)
    assert wire.read().args[1] == b"new code"
    assert worker.metric('gearworker_jobs_total{outcome="complete",task="work"}') == 2000


@pytest.mark.parametrize("what", ["yaml", "key", "module"])
def test_a_reload_with_something_broken_is_refused(gearmand: Gearmand, start_worker: StartWorker, what: str) -> None:
    worker = start_worker(gearmand, tasks=TASKS)
    before = children(worker.pid)
    config = worker.directory / "config.yaml"
    good = config.read_text()
    if what == "module":
        (worker.directory / "tasks_under_test.py").write_text("import nothing_of_that_name\n")
    else:
        config.write_text("{" if what == "yaml" else json.dumps({**json.loads(good), "job_servres": []}))
    worker.signal(signal.SIGHUP)
    expected = "reload given up" if what == "module" else "reload refused"
    wait_until(lambda: expected in worker.log, what="the refusal")
    assert "Traceback" not in worker.log
    assert children(worker.pid) >= before
    submit(gearmand.port, 1, "0")
    wait_for_all(worker, 1)


def test_a_process_that_crashes_after_a_refused_reload_gets_the_old_configuration(
    gearmand: Gearmand, start_worker: StartWorker
) -> None:
    worker = start_worker(gearmand, tasks=TASKS)
    (first,) = children(worker.pid)
    (worker.directory / "config.yaml").write_text("{")
    worker.signal(signal.SIGHUP)
    wait_until(lambda: "reload refused" in worker.log, what="the refusal")
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: processes(worker) == 1 and children(worker.pid) != {first}, what="the replacement")


@pytest.mark.parametrize("limit", ["max_jobs", "max_age_s", "max_rss"])
def test_recycling_under_load_loses_and_repeats_nothing(
    gearmand: Gearmand, start_worker: StartWorker, limit: str
) -> None:
    recycle = {"max_jobs": 50, "max_age_s": 2, "max_rss": "150MiB"}
    worker = start_worker(gearmand, tasks=TASKS, recycle={limit: recycle[limit]})
    (first,) = children(worker.pid)
    if limit == "max_rss":
        Wire(gearmand.port).submit(b"grow", data=b"200000000")
    submit(gearmand.port, 300, "0.2")
    wait_until(lambda: restarts(worker, "recycled") >= 1, what="recycling")
    wait_until(lambda: not alive(first), what="the first process to end")
    wait_for_all(worker, 300)
    assert_each_ran_once(worker, 300)
    assert worker.metric('gearworker_jobs_total{outcome="complete",task="work"}') == 300
    assert "is recycled: " in worker.log


def test_sigterm_under_load_drains_every_process(gearmand: Gearmand, start_worker: StartWorker) -> None:
    worker = start_worker(gearmand, tasks=TASKS, processes=2, pools={"default": {"concurrency": 50}})
    wait_until(lambda: processes(worker) == 2, what="two processes")
    submit(gearmand.port, 300, "0.5")
    wait_until(lambda: len(uniques(worker, "started")) >= 100, what="running jobs")
    worker.signal(signal.SIGTERM)
    assert worker.wait(10) == 0, worker.log
    started, finished = uniques(worker, "started"), uniques(worker, "finished")
    assert started == finished
    assert max(started.values()) == 1
    assert gearmand.queue("work")[:2] == (300 - len(finished), 0)


def test_the_grace_is_kept_even_by_a_blocked_process(gearmand: Gearmand, start_worker: StartWorker) -> None:
    worker = start_worker(gearmand, tasks=TASKS, shutdown={"grace_s": 0.5}, watchdog={"warn_s": 0, "blocked_s": 0})
    Wire(gearmand.port).submit(b"block_in_c", data=b"60")
    wait_until(lambda: gearmand.queue("block_in_c")[1] == 1, what="the job to run")
    worker.signal(signal.SIGTERM)
    assert worker.wait(8) == 3, worker.log
    wait_until(lambda: gearmand.queue("block_in_c") == (1, 0, 0), what="the job to be queued again")


def test_the_processes_end_when_the_supervisor_is_killed(gearmand: Gearmand, start_worker: StartWorker) -> None:
    worker = start_worker(gearmand, tasks=TASKS, processes=2)
    wait_until(lambda: processes(worker) == 2, what="two processes")
    orphans = children(worker.pid)
    submit(gearmand.port, 20, "0.5")
    wait_until(lambda: len(uniques(worker, "started")) == 20, what="running jobs")
    worker.signal(signal.SIGKILL)
    wait_until(lambda: not any(alive(pid) for pid in orphans), what="the processes to end")
    assert_each_ran_once(worker, 20)  # they drained
    assert gearmand.queue("work") == (0, 0, 0)


def test_one_process_more_and_less(gearmand: Gearmand, start_worker: StartWorker) -> None:
    worker = start_worker(gearmand, tasks=TASKS)
    worker.signal(signal.SIGTTIN)
    wait_until(lambda: processes(worker) == 2, what="two processes")
    worker.signal(signal.SIGTTOU)
    wait_until(lambda: len(children(worker.pid)) == 1, what="one process")
    worker.signal(signal.SIGTTOU)
    wait_until(lambda: worker.log.count("1 processes wanted") >= 3, what="the bound of one")
    assert processes(worker) == 1


def test_the_state_and_the_stacks_are_logged_on_request(gearmand: Gearmand, start_worker: StartWorker) -> None:
    worker = start_worker(gearmand, tasks=TASKS)
    handle = Wire(gearmand.port).submit(b"work", b"u", b"30").decode()
    wait_until(lambda: uniques(worker, "started"), what="the job to run")
    worker.signal(signal.SIGUSR1)
    wait_until(lambda: "1 of 1 processes ready, 1 jobs running" in worker.log, what="the state")
    worker.signal(signal.SIGUSR2)
    wait_until(lambda: "stacks of all greenlets" in worker.log and "in work" in worker.log, what="the stacks")
    assert f"handle={handle}" in worker.log


def test_running_jobs_of_every_process_are_shown(gearmand: Gearmand, start_worker: StartWorker) -> None:
    worker = start_worker(gearmand, tasks=TASKS, processes=2, pools={"default": {"concurrency": 2}})
    wait_until(lambda: processes(worker) == 2, what="two processes")
    submit(gearmand.port, 4, "30")
    wait_until(lambda: len(json.loads(worker.get("/jobs")[1])["jobs"]) == 4, what="four running jobs")
    worker.signal(signal.SIGQUIT)
    assert worker.wait(8) == 128 + signal.SIGQUIT, worker.log
    wait_until(lambda: gearmand.queue("work") == (4, 0, 0), what="the jobs to be queued again")


@pytest.mark.parametrize(
    ("tasks", "code"),
    [("import nothing_of_that_name", 2), ("raise ValueError('no')", 2), ("import os; os._exit(5)", 1)],
)
def test_processes_that_can_not_start_stop_the_service(
    gearmand: Gearmand, start_worker: StartWorker, tasks: str, code: int
) -> None:
    worker = start_worker(gearmand, tasks=tasks, wait=False)
    assert worker.wait(15) == code, worker.log
    assert "can't start; stopping" in worker.log
    assert "Traceback" not in worker.log


def test_a_forked_child_does_not_keep_the_connections(gearmand: Gearmand, start_worker: StartWorker) -> None:
    worker = start_worker(gearmand, tasks=TASKS)
    (first,) = children(worker.pid)
    Wire(gearmand.port).submit(b"leave_a_child")
    wait_until(lambda: (worker.directory / "child.pid").exists(), what="the child")
    orphan = int((worker.directory / "child.pid").read_text())
    try:
        submit(gearmand.port, 1, "0.5")
        wait_until(lambda: uniques(worker, "started"), what="the job to run")
        os.kill(first, signal.SIGKILL)
        assert alive(orphan)
        wait_for_all(worker, 1, 10)
    finally:
        os.kill(orphan, signal.SIGKILL)
