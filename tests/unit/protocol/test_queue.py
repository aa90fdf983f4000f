"""The job server's store: where jobs are, and that nothing is lost or left behind. The rules that peers can see are in
tests/conformance; here are bounds, accounting, and any order of events."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gearworker.protocol.queue import HIGH, JOB_OVERHEAD_BYTES, LOW, NORMAL, Job, JobStore, Peer, QueueFull


def new_store(max_jobs: int = 100, max_bytes: int = 10**9, max_tasks: int = 10) -> JobStore:
    return JobStore(b"H:100%", max_jobs=max_jobs, max_bytes=max_bytes, max_tasks=max_tasks)


def new_peer(number: int = 1) -> Peer:
    return Peer(number, b"127.0.0.1", number)


def add(store: JobStore, unique: bytes = b"", data: bytes = b"d", *, client: Peer | None = None, due_s: int = 0) -> Job:
    return store.submit(store.task(b"t"), unique, data, NORMAL, client, due_s=due_s)


def test_a_percent_sign_in_the_prefix_is_only_that() -> None:
    store = new_store()
    assert [add(store).handle for _ in range(2)] == [b"H:100%:1", b"H:100%:2"]


def test_the_store_counts_bytes_and_gives_them_back() -> None:
    store, worker, client = new_store(), new_peer(1), new_peer(2)
    task = store.task(b"t")
    store.register(worker, task)
    add(store, data=b"x" * 10)
    abandoned = add(store, data=b"x" * 1000, client=client)
    assert store.bytes == 2 * JOB_OVERHEAD_BYTES + 1010
    store.leave(client)
    assert (abandoned.data, store.bytes) == (b"", 2 * JOB_OVERHEAD_BYTES + 10)
    job = store.take(worker)
    assert job is not None
    store.finish(job)
    assert store.take(worker) is None
    assert (store.bytes, store.jobs, task.total, task.running, task.ready) == (0, {}, 0, 0, 0)


def test_limits() -> None:
    store = new_store(max_jobs=2, max_tasks=2)
    add(store, b"1")
    add(store, b"2")
    assert add(store, b"2").unique == b"2"
    with pytest.raises(QueueFull):
        add(store, b"3")
    store.task(b"second")
    with pytest.raises(QueueFull):
        store.task(b"third")
    small = new_store(max_bytes=2 * JOB_OVERHEAD_BYTES)
    with pytest.raises(QueueFull):
        add(small, data=b"x" * (JOB_OVERHEAD_BYTES + 1))
    add(small, data=b"x" * JOB_OVERHEAD_BYTES)


def test_jobs_for_later_are_released_in_the_order_of_their_times() -> None:
    store, worker = new_store(), new_peer()
    store.register(worker, store.task(b"t"))
    late, early, cancelled = add(store, b"a", due_s=20), add(store, b"b", due_s=10), add(store, b"c", due_s=15)
    assert store.next_due_s == 10
    store.cancel(cancelled)
    store.release(9.99)
    assert store.take(worker) is None
    store.release(15)
    assert (store.take(worker), store.take(worker), store.next_due_s) == (early, None, 20)
    assert cancelled.handle not in store.jobs
    store.release(1000)
    assert store.take(worker) is late
    assert store.next_due_s is None


def test_the_dead_are_passed_over_in_all_three_queues() -> None:
    store, worker = new_store(), new_peer()
    task = store.task(b"t")
    store.register(worker, task)
    for priority in (LOW, NORMAL, HIGH):
        store.cancel(store.submit(task, b"", b"dead", priority, None))
    alive = store.submit(task, b"", b"alive", LOW, None)
    assert store.take(worker) is alive
    assert (task.ready, task.total, task.running) == (0, 1, 1)


def test_a_sleeper_that_has_left_is_not_woken() -> None:
    store, worker = new_store(), new_peer()
    task = store.task(b"t")
    store.register(worker, task)
    assert store.sleep(worker)
    store.leave(worker)
    add(store)
    assert store.woken == []
    assert not task.sleepers


_EVENTS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "fg",
                "bg",
                "later",
                "take",
                "finish",
                "requeue",
                "cancel",
                "leave",
                "register",
                "unregister",
                "sleep",
                "tick",
            ]
        ),
        st.integers(0, 2),
        st.integers(0, 3),
    ),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(events=_EVENTS)
def test_any_order_of_events_keeps_the_books(events: list[tuple[str, int, int]]) -> None:
    """After every event the counters agree with the jobs, and no acknowledged background job is lost."""
    store = new_store()
    tasks = [store.task(b"a"), store.task(b"b")]
    peers = [new_peer(n) for n in range(3)]
    background: set[bytes] = set()
    for now_s, (what, which, number) in enumerate(events):
        peer, task = peers[which], tasks[number % 2]
        held = list(peer.held.values())
        if what in ("fg", "bg", "later"):
            client = peer if what == "fg" else None
            due_s = now_s + number if what == "later" else 0
            job = store.submit(task, b"u%d" % number if number else b"", b"x" * number, number % 3, client, due_s=due_s)
            assert not job.ignored
            if client is None:
                background.add(job.handle)
        elif what == "take":
            job_taken = store.take(peer)
            assert job_taken is None or (not job_taken.ignored and job_taken.worker is peer)
        elif what == "finish" and held:
            background.discard(held[number % len(held)].handle)
            store.finish(held[number % len(held)])
        elif what == "requeue":
            store.requeue(held)
        elif what == "cancel" and store.jobs:
            job = list(store.jobs.values())[number % len(store.jobs)]
            background.discard(job.handle)
            store.cancel(job)
        elif what == "leave":
            store.leave(peer)
        elif what == "register":
            store.register(peer, task)
        elif what == "unregister":
            store.unregister(peer, task)
        elif what == "sleep":
            store.sleep(peer)
        else:
            store.release(now_s)
        _check_books(store, peers)
        assert background <= {handle for handle, job in store.jobs.items() if not job.ignored}


def _check_books(store: JobStore, peers: list[Peer]) -> None:
    jobs = list(store.jobs.values())
    assert store.bytes == sum(len(job.data) + JOB_OVERHEAD_BYTES for job in jobs)
    for task in store.tasks.values():
        mine = [job for job in jobs if job.task is task]
        queued = [job for queue in task.queues for job in queue]
        assert task.total == len(mine)
        assert task.ready == len(queued)
        assert task.running == sum(job.worker is not None for job in mine)
        assert task.workers == sum(peer.abilities.count(task) for peer in peers)
        assert set(queued) == {job for job in mine if job.worker is None and not job.due_s}
        assert all(job.unique == unique and job in mine for unique, job in task.uniques.items())
    for peer in peers:
        assert all(job.worker is peer and handle in store.jobs for handle, job in peer.held.items())
        assert all(peer in job.clients for job in peer.waiting)
    assert all(job in client.waiting for job in jobs for client in job.clients)


def test_the_unique_dash_compares_payloads_while_the_job_lives() -> None:
    store, worker = new_store(), new_peer()
    store.register(worker, store.task(b"t"))
    first = add(store, b"-", b"same")
    assert add(store, b"-", b"same") is first
    assert add(store, b"-", b"") is not add(store, b"-", b"")
    assert store.take(worker) is first
    store.finish(first)
    assert add(store, b"-", b"same") is not first


def test_an_ignored_job_is_joined_only_where_it_runs_for_nobody() -> None:
    store, worker, client = new_store(), new_peer(1), new_peer(2)
    store.register(worker, store.task(b"t"))
    queued = add(store, b"queued", client=client)
    store.leave(client)
    assert add(store, b"queued") is not queued
    assert store.take(worker) is not None
    running = add(store, b"running", client=client)
    assert store.take(worker) is running
    store.leave(client)
    assert running.ignored
    assert add(store, b"running") is running
    assert not running.ignored
    store.cancel(running)
    assert add(store, b"running") is not running


def test_jobs_given_back_go_to_the_tail_in_reverse_and_wake() -> None:
    store, worker, sleeper = new_store(), new_peer(1), new_peer(2)
    task, other = store.task(b"t"), store.task(b"other")
    for ability in (other, task):
        store.register(worker, ability)
    jobs = [add(store) for _ in range(4)]
    assert [store.take(worker) for _ in range(3)] == jobs[:3]
    store.register(sleeper, other)
    assert store.sleep(sleeper)
    store.register(sleeper, task)
    assert not store.sleep(sleeper)
    store.unregister(worker, task)
    assert store.woken == [sleeper]
    assert [store.take(sleeper) for _ in range(5)] == [jobs[3], jobs[2], jobs[1], jobs[0], None]
    assert [job.retries for job in jobs] == [1, 1, 1, 0]
    assert (worker.abilities, other.workers, task.workers) == ([other], 2, 1)
