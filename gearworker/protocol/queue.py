"""The job server's store: jobs, the queues of each task, who waits for a job and who holds it. Pure.

Theory of operation. A job is in one of four places: in one of its task's three queues, in the heap of jobs for later,
held by a peer, or nowhere, because it has ended. Nothing searches a queue: a job that was cancelled, or that its last
client left, is marked as ignored, gives up its payload, and is dropped when its turn comes. Peers that sleep are noted
at each task they can do; the note is only a hint, which a queued job consumes, so waking costs nothing per busy peer.

Where gearmand 1.1.20 loses acknowledged jobs, this store does not:

* a background submit onto a foreground job makes it a background job too: it outlives its clients, in either order;
* a submit onto an ignored job that is still queued makes a new job; onto a running one that its clients left, joins it.

Source: gearmand 1.1.20, libgearman-server/job.cc and gearmand_con.cc, for the order in which things happen.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from typing import Final

HIGH: Final = 0
NORMAL: Final = 1
LOW: Final = 2
JOB_OVERHEAD_BYTES: Final = 1024
"""What a job without payload takes in memory, roughly; each counts with this on top of its payload."""


class QueueFull(Exception):
    """A limit of the store or a task's maxqueue leaves no room."""


class Task:
    """A task's queues and counters.

    Attributes:
        queues: of jobs that may run, high, normal and low priority.
        ready: how many jobs the queues hold, ignored ones too.
        total: all jobs of the task: queued, waiting for their time, running.
        workers: how often peers registered the ability, repeats counted.
        max_queue: the most of ``total`` at which each priority takes a job; 0 is no limit.
    """

    __slots__ = (
        "max_queue",
        "name",
        "payloads",
        "queues",
        "ready",
        "running",
        "sleepers",
        "total",
        "uniques",
        "workers",
    )

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.queues: tuple[deque[Job], deque[Job], deque[Job]] = (deque(), deque(), deque())
        self.ready = self.total = self.running = self.workers = 0
        self.max_queue = [0, 0, 0]
        self.uniques: dict[bytes, Job] = {}
        self.payloads: dict[bytes, Job] = {}
        self.sleepers: set[Peer] = set()


class Job:
    """One job. ``clients`` counts how often each peer submitted it; ``worker`` is the peer that holds it."""

    __slots__ = (
        "background",
        "cancelled",
        "clients",
        "data",
        "denominator",
        "due_s",
        "handle",
        "ignored",
        "numerator",
        "priority",
        "reducer",
        "retries",
        "task",
        "unique",
        "worker",
    )

    def __init__(self, handle: bytes, task: Task, unique: bytes, data: bytes, priority: int) -> None:
        self.handle = handle
        self.task = task
        self.unique = unique
        self.data = data
        self.priority = priority
        self.reducer = b""
        self.due_s = 0
        self.background = self.ignored = self.cancelled = False
        self.retries = self.numerator = self.denominator = 0
        self.clients: dict[Peer, int] = {}
        self.worker: Peer | None = None


class Peer:
    """A connection, be it a worker's, a client's or both.

    Attributes:
        abilities: the tasks it registered, in order, with repeats; the last is served first.
        held: the jobs assigned to it, in order of assignment, by handle.
        waiting: the foreground jobs that it submitted.
    """

    __slots__ = (
        "abilities",
        "client_id",
        "file_descriptor",
        "held",
        "id",
        "ip",
        "noop_sent",
        "sleeping",
        "waiting",
        "wants_exceptions",
    )

    def __init__(self, peer_id: int, ip: bytes, file_descriptor: int) -> None:
        self.id = peer_id
        self.ip = ip
        self.file_descriptor = file_descriptor
        self.client_id = b"-"
        self.abilities: list[Task] = []
        self.held: dict[bytes, Job] = {}
        self.waiting: set[Job] = set()
        self.sleeping = self.noop_sent = self.wants_exceptions = False


class JobStore:
    """All jobs of a job server.

    Args:
        handle_prefix: handles are this, a colon and a number from 1.
        max_jobs: the most jobs at a time.
        max_bytes: the most bytes of their payloads and their overhead.
        max_tasks: the most tasks' names, which are kept for good, and the most abilities of a peer.

    Attributes:
        woken: peers that are to get a NOOP, for the caller to take.
    """

    def __init__(self, handle_prefix: bytes, *, max_jobs: int, max_bytes: int, max_tasks: int) -> None:
        self.jobs: dict[bytes, Job] = {}
        self.tasks: dict[bytes, Task] = {}
        self.bytes = 0
        self.woken: list[Peer] = []
        self.max_tasks = max_tasks
        self._handle_format = handle_prefix.replace(b"%", b"%%") + b":%d"
        self._max_jobs = max_jobs
        self._max_bytes = max_bytes
        self._count = 0
        self._later: list[tuple[int, int, Job]] = []

    def task(self, name: bytes) -> Task:
        """The task of that name, made if need be.

        Raises:
            QueueFull: there are too many.
        """
        task = self.tasks.get(name)
        if task is None:
            if len(self.tasks) >= self.max_tasks:
                raise QueueFull
            task = self.tasks[name] = Task(name)
        return task

    # Submitting

    def submit(
        self,
        task: Task,
        unique: bytes,
        data: bytes,
        priority: int,
        client: Peer | None,
        *,
        reducer: bytes = b"",
        due_s: int = 0,
    ) -> Job:
        """A job for this submit: a new one, or one with the same task and unique (or payload, for the unique ``-``).

        Args:
            client: who waits for it; None for a background job.
            due_s: Unix time before which it is not run; 0 for a job to run now. A moment that has passed is not known
                as such here: the next ``release`` finds it.

        Raises:
            QueueFull: a new job would be one too many.
        """
        job = self._coalesce(task, unique, data)
        if job is None:
            job = self._create(task, unique, data, priority)
            job.reducer, job.due_s = reducer, due_s
            self._enqueue(job)
        if client is None:
            job.background = True
        else:
            job.clients[client] = job.clients.get(client, 0) + 1
            client.waiting.add(job)
        return job

    def _coalesce(self, task: Task, unique: bytes, data: bytes) -> Job | None:
        job = task.payloads.get(data) if unique == b"-" else task.uniques.get(unique)
        if job is None or not job.ignored:
            return job
        if job.worker is None or job.cancelled:
            return None
        job.ignored = False
        return job

    def _create(self, task: Task, unique: bytes, data: bytes, priority: int) -> Job:
        limit = task.max_queue[priority]
        size = len(data) + JOB_OVERHEAD_BYTES
        if (limit and task.total >= limit) or len(self.jobs) >= self._max_jobs or self.bytes + size > self._max_bytes:
            raise QueueFull
        self._count += 1
        handle = self._handle_format % self._count
        job = self.jobs[handle] = Job(handle, task, unique, data, priority)
        self.bytes += size
        task.total += 1
        if unique == b"-":
            if data:
                task.payloads[data] = job
        elif unique:
            task.uniques[unique] = job
        return job

    def _enqueue(self, job: Job) -> None:
        if job.due_s:
            heapq.heappush(self._later, (job.due_s, self._count, job))
            return
        task = job.task
        task.queues[job.priority].append(job)
        task.ready += 1
        if task.sleepers:
            self._wake(task)

    def _wake(self, task: Task) -> None:
        """One NOOP for each sleeping peer until it grabs."""
        for peer in task.sleepers:
            if peer.sleeping and not peer.noop_sent:
                peer.noop_sent = True
                self.woken.append(peer)
        task.sleepers.clear()

    @property
    def next_due_s(self) -> int | None:
        """The Unix time of the next job that waits for its time."""
        return self._later[0][0] if self._later else None

    def release(self, now_s: float) -> None:
        """Queue the jobs whose time has come, behind those that are queued."""
        while self._later and self._later[0][0] <= now_s:
            _, _, job = heapq.heappop(self._later)
            job.due_s = 0
            if job.ignored:
                self.finish(job)
            else:
                self._enqueue(job)

    def later_by_task(self) -> Counter[Task]:
        """How many jobs of each task wait for their time."""
        return Counter(job.task for _, _, job in self._later)

    # Abilities and grabbing

    def register(self, peer: Peer, task: Task) -> None:
        """Add an ability; a repeat counts again. A peer that sleeps is woken by later jobs only."""
        peer.abilities.append(task)
        task.workers += 1
        if peer.sleeping:
            task.sleepers.add(peer)

    def unregister(self, peer: Peer, task: Task) -> None:
        """Take every registration of an ability back, and requeue the jobs of that task that the peer holds."""
        self.requeue([job for job in peer.held.values() if job.task is task])
        task.workers -= peer.abilities.count(task)
        peer.abilities = [ability for ability in peer.abilities if ability is not task]
        task.sleepers.discard(peer)

    def unregister_all(self, peer: Peer) -> None:
        """As ``unregister``, for every ability."""
        self.requeue(list(peer.held.values()))
        for task in peer.abilities:
            task.workers -= 1
            task.sleepers.discard(peer)
        peer.abilities = []

    def take(self, peer: Peer) -> Job | None:
        """Assign the next job to a peer: of its last ability that has one, by priority, oldest first."""
        for task in reversed(peer.abilities):
            if task.ready and (job := self._first(task)) is not None:
                task.queues[job.priority].popleft()
                task.ready -= 1
                task.running += 1
                job.worker = peer
                peer.held[job.handle] = job
                return job
        return None

    def sleep(self, peer: Peer) -> bool:
        """Note that a peer sleeps; False where there is a job for it, so that it must not."""
        for task in peer.abilities:
            if task.ready and self._first(task) is not None:
                return False
        peer.sleeping = True
        for task in peer.abilities:
            task.sleepers.add(peer)
        return True

    def _first(self, task: Task) -> Job | None:
        """The job that is next; ignored ones in front of it are dropped."""
        for queue in task.queues:
            while queue:
                job = queue[0]
                if not job.ignored:
                    return job
                queue.popleft()
                task.ready -= 1
                self.finish(job)
        return None

    # Ends

    def finish(self, job: Job) -> None:
        """Forget a job that is in no queue any more."""
        del self.jobs[job.handle]
        self.bytes -= len(job.data) + JOB_OVERHEAD_BYTES
        task = job.task
        task.total -= 1
        if job.worker is not None:
            task.running -= 1
            del job.worker.held[job.handle]
        self._forget_unique(job)
        for client in job.clients:
            client.waiting.discard(job)

    def _forget_unique(self, job: Job) -> None:
        if job.unique == b"-":
            if job.task.payloads.get(job.data) is job:
                del job.task.payloads[job.data]
        elif job.task.uniques.get(job.unique) is job:
            del job.task.uniques[job.unique]

    def requeue(self, jobs: list[Job]) -> None:
        """Put held jobs back, given in order of assignment, to the tail of their queues in the reverse order."""
        for job in reversed(jobs):
            worker = job.worker
            assert worker is not None
            del worker.held[job.handle]
            job.worker = None
            job.task.running -= 1
            job.retries += 1
            job.numerator = job.denominator = 0
            self._enqueue(job)

    def cancel(self, job: Job) -> None:
        """Never run a job that is queued; do not run one again that is running."""
        job.cancelled = True
        self._ignore(job)

    def leave(self, peer: Peer) -> None:
        """A connection has ended: its jobs are requeued, and what nobody else waits for is dropped."""
        peer.sleeping = False
        self.unregister_all(peer)
        for job in peer.waiting:
            del job.clients[peer]
            if not job.clients and not job.background:
                self._ignore(job)
        peer.waiting = set()

    def _ignore(self, job: Job) -> None:
        job.ignored = True
        if job.worker is None:
            self._forget_unique(job)
            self.bytes -= len(job.data)
            job.data = b""
