"""Where a client may be used: programs without gevent, monkey patched ones, native threads, forked children."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.servers import Gearmand
from support.tiny_worker import TinyWorker
from support.workers import WorkerProcess

from gearworker.client import GearmanClient

pytestmark = pytest.mark.gearmand
ROOT = Path(__file__).parents[2]


@pytest.fixture
def worker(gearmand: Gearmand) -> Iterator[TinyWorker]:
    with TinyWorker(gearmand.port, {"reverse": lambda job: job.data[::-1]}) as worker:
        yield worker


def run(gearmand: Gearmand, program: str, *, timeout_s: float = 30.0) -> str:
    """Run a program in a Python of its own; it finds the job server's address as ADDRESS."""
    program = f"ADDRESS = {gearmand.address!r}\n" + textwrap.dedent(program)
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "ignore::ResourceWarning", "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=timeout_s, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return done.stdout


def test_a_program_with_threads_that_knows_nothing_of_gevent(gearmand: Gearmand, worker: TinyWorker) -> None:
    out = run(
        gearmand,
        """
        import threading
        from gearworker.client import GearmanClient
        client = GearmanClient([ADDRESS])
        right = []
        def work(number):
            for step in range(50):
                data = b"%d-%d" % (number, step)
                right.append(client.submit_job("reverse", data, poll_timeout=20).result == data[::-1])
        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        print(len(right), all(right))
        print([update.data for update in client.stream("reverse", b"ab")])
        print(list(client.map("reverse", [b"12", b"34"])))
        from gevent._hub_local import get_hub_if_exists
        from gevent import monkey
        print(get_hub_if_exists(), monkey.is_module_patched("socket"))
        """,
    )
    assert out == "400 True\n[b'ba']\n[b'21', b'43']\nNone False\n"


def test_a_program_that_never_closes_its_client_ends(gearmand: Gearmand, worker: TinyWorker) -> None:
    program = """
        from gearworker.client import GearmanClient
        client = GearmanClient([ADDRESS])
        client.submit_job("nobody does this", b"x", wait_until_complete=False)
        print("bye")
        """
    assert run(gearmand, program, timeout_s=10) == "bye\n"


def test_a_monkey_patched_program(gearmand: Gearmand, worker: TinyWorker) -> None:
    out = run(
        gearmand,
        """
        from gevent import monkey; monkey.patch_all()
        import threading, gevent, gevent.threadpool
        from gearworker.client import GearmanClient
        client = GearmanClient([ADDRESS])
        def submit(data): return client.submit_job("reverse", data, poll_timeout=20).result
        print(submit(b"main"))
        print([greenlet.get() for greenlet in [gevent.spawn(submit, b"%d" % n) for n in (12, 34)]])
        results = []
        thread = threading.Thread(target=lambda: results.append(submit(b"thread")))
        thread.start(); thread.join()
        print(results)
        native = gevent.get_hub().threadpool
        print([result.get() for result in [native.spawn(submit, b"n%d" % n) for n in (1, 2)]])
        print(len(client._homes.all()))
        """,
    )
    assert out == "b'niam'\n[b'21', b'43']\n[b'daerht']\n[b'1n', b'2n']\n2\n"


def test_greenlets_run_on_while_a_call_waits(gearmand: Gearmand, worker: TinyWorker) -> None:
    out = run(
        gearmand,
        """
        import gevent, time
        from gearworker.client import GearmanClient
        client = GearmanClient([ADDRESS])
        ticks = []
        def tick():
            while True:
                ticks.append(1); gevent.sleep(0.01)
        gevent.spawn(tick)
        # The main greenlet of an unpatched thread with a hub: its connections live in the client's own thread.
        client.submit_job("nobody does this", b"x", poll_timeout=0.5)
        print(len(ticks) > 10)
        ticks.clear()
        gevent.spawn(client.submit_job, "nobody does this", b"x", poll_timeout=0.5).get()
        print(len(ticks) > 10)
        """,
    )
    assert out == "True\nTrue\n"


@pytest.mark.parametrize("patch", ["", "from gevent import monkey; monkey.patch_all()"])
@pytest.mark.parametrize("how", ["os.fork", "multiprocessing"])
def test_a_forked_child_has_connections_of_its_own(
    gearmand: Gearmand, worker: TinyWorker, patch: str, how: str
) -> None:
    start = {
        "os.fork": """
            pid = os.fork()
            if not pid:
                status = 1
                try:
                    child(); status = 0
                finally:
                    os._exit(status)
            print(os.waitpid(pid, 0)[1])
            """,
        "multiprocessing": """
            process = multiprocessing.get_context("fork").Process(target=child)
            process.start(); process.join(); print(process.exitcode)
            """,
    }[how]
    program = f"""
{patch}
import os, sys, multiprocessing, warnings
warnings.simplefilter("ignore")
from gearworker.client import GearmanClient
client = GearmanClient([ADDRESS])
def submit(data): return client.submit_job("reverse", data, poll_timeout=20).result
open_one = client.submit_job("nobody does this", b"x", wait_until_complete=False, poll_timeout=20)
assert submit(b"before") == b"erofeb"
def child():
    for n in range(20):
        assert submit(b"child%d" % n) == (b"child%d" % n)[::-1]
    assert open_one.state in ("CREATED", "UNKNOWN")
    client.close()
{textwrap.dedent(start)}
for n in range(20):
    assert submit(b"parent%d" % n) == (b"parent%d" % n)[::-1]
print(open_one.state)
"""
    assert run(gearmand, program) == "0\nCREATED\n"
    assert len(worker.seen) == 41


def test_a_forked_child_that_only_waits_takes_nothing_from_its_parent(gearmand: Gearmand, worker: TinyWorker) -> None:
    out = run(
        gearmand,
        """
        from gevent import monkey; monkey.patch_all()
        import os, time
        from gearworker.client import GearmanClient
        client = GearmanClient([ADDRESS])
        request = client.submit_job("reverse", b"first", poll_timeout=20)
        pid = os.fork()
        if not pid:
            time.sleep(1)
            os._exit(0)
        jobs = ended = 0
        while not ended:
            data = b"%d" % jobs
            assert client.submit_job("reverse", data, poll_timeout=5).result == data[::-1]
            jobs += 1
            ended, status = os.waitpid(pid, os.WNOHANG)
        print(jobs > 0, status)
        """,
    )
    assert out == "True 0\n"


def test_a_client_that_nobody_holds_any_more_leaves_nothing_behind(gearmand: Gearmand, worker: TinyWorker) -> None:
    out = run(
        gearmand,
        """
        import gc, os, time, threading, gevent
        from gearworker.client import GearmanClient
        def use():
            client = GearmanClient([ADDRESS])
            assert client.submit_job("reverse", b"ab", poll_timeout=20).result == b"ba"
            gevent.spawn(client.submit_job, "reverse", b"ab", poll_timeout=20).get()
        def threads(): return len(os.listdir("/proc/self/task"))
        def files(): return len(os.listdir("/proc/self/fd"))
        use(); gc.collect(); gevent.sleep(0.2)
        before = threads(), files()
        for _ in range(30):
            use()
        for _ in range(100):
            gc.collect(); gevent.sleep(0.02)
            if threads() <= before[0] + 3 and files() <= before[1] + 12: break
        # A few threads with their loops wait for the next client; thirty clients have come and gone.
        print(threads() - before[0] <= 3, files() - before[1] <= 12)
        """,
    )
    assert out == "True True\n"


def test_handlers_of_a_worker_submit_jobs_themselves(
    gearmand: Gearmand, start_worker: Callable[..., WorkerProcess]
) -> None:
    """In a slot's greenlet, and in the native thread of a task with ``thread=True``."""
    start_worker(
        gearmand,
        tasks=f"""
        from gearworker import task
        from gearworker.client import GearmanClient
        client = GearmanClient([{gearmand.address!r}])

        @task
        def inner(job):
            return job.data[::-1]

        @task
        def outer(job):
            return client.submit_job("inner", job.data, poll_timeout=10).result

        @task(thread=True)
        def threaded(job):
            return b",".join(client.map("inner", [job.data, b"xy"], timeout_s=10))
        """,
        pools={"default": {"concurrency": 100}},
    )
    with GearmanClient(gearmand.address) as client:
        jobs = [{"task": "outer", "data": b"%d" % number} for number in range(40)]
        requests = client.submit_multiple_jobs(jobs, poll_timeout=20)
        assert [request.result for request in requests] == [(b"%d" % number)[::-1] for number in range(40)]
        assert client.submit_job("threaded", b"ab", poll_timeout=20).result == b"ba,yx"


def test_a_wait_can_be_interrupted(gearmand: Gearmand, worker: TinyWorker) -> None:
    out = run(
        gearmand,
        """
        import os, signal, threading, time
        from gearworker.client import GearmanClient
        client = GearmanClient([ADDRESS])
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            client.submit_job("nobody does this", b"x")
        except KeyboardInterrupt:
            print("interrupted")
        print(client.submit_job("reverse", b"ab", poll_timeout=20).result)
        """,
    )
    assert out == "interrupted\nb'ba'\n"
