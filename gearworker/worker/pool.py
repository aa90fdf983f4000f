"""A pool: a named bound on how many jobs run at a time, and the slots that run them.

Theory of operation. A slot is a greenlet that lives as long as the pool and runs one job after another; starting one
for each job would cost several times what the rest of a small job costs. Every job server's link of the pool asks for
free slots before it grabs, so grabs in flight and jobs together never exceed the concurrency, and a job that arrives
always finds a slot. Arrived jobs wait in ``_ready`` for the rest of the turn only.

One slot is woken for a batch of arrived jobs. Before it runs the first it has a second slot woken: when the handler
yields, that one takes the next job, and so on; when no handler ever yields, the first slot runs the whole batch without
a single switch. A slot that has run jobs for ``TURN_S`` without a pause lets the rest of the process have its turn.

A slot survives whatever strikes it, or the pool would lose it for good.

Freed slots are shared among the links that want more, in turns, so no job server starves another.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Final, Protocol

import gevent
from gevent.event import Event
from greenlet import getcurrent, greenlet

from gearworker.job import GearmanJob

log = logging.getLogger(__name__)

TURN_S: Final = 0.01
KILL_S: Final = 1.0
DEFAULT_MAX_IN_FLIGHT_BYTES: Final = 64 * 1024 * 1024


class Grabber(Protocol):
    """What a pool needs of a link: how many jobs it wants, and a way to let it have them."""

    @property
    def wanted(self) -> int:
        """How many more jobs it would grab now."""

    def grab(self, count: int) -> None:
        """Grab so many; their slots are reserved."""


class Pool:
    """Slots for a bounded number of jobs at a time.

    Args:
        name: as in the configuration.
        concurrency: how many jobs may run at a time.
        run: runs one job to its end; never raises.
        max_in_flight_bytes: while the payloads of jobs in hand are over this size, no more are grabbed or read.
    """

    def __init__(
        self,
        name: str,
        concurrency: int,
        run: Callable[[GearmanJob], None],
        *,
        max_in_flight_bytes: int = DEFAULT_MAX_IN_FLIGHT_BYTES,
    ) -> None:
        self.name = name
        self.concurrency = concurrency
        self.free = concurrency
        self.running: set[GearmanJob] = set()
        self.in_flight_bytes = 0
        self.max_in_flight_bytes = max_in_flight_bytes
        self._run = run
        self._ready: deque[GearmanJob] = deque()
        self._idle: list[greenlet] = []
        self._slots: list[greenlet] = []
        self._waking = False
        self._stopped = False
        self._refill_due = False
        self._grabbers: deque[Grabber] = deque()
        self._under_budget = Event()
        self._under_budget.set()
        self._hub = gevent.get_hub()

    # ------------------------------------------------------------------ links

    def join(self, grabber: Grabber) -> None:
        """Let a link have a share of the slots."""
        self._grabbers.append(grabber)

    def schedule_refill(self) -> None:
        """Share out free slots at the end of this turn. Switches: never."""
        if not self._refill_due:
            self._refill_due = True
            self._hub.loop.run_callback(self._refill)

    def _refill(self) -> None:
        self._refill_due = False
        if self.in_flight_bytes > self.max_in_flight_bytes:
            return
        hungry = [grabber for grabber in self._grabbers if grabber.wanted > 0]
        if self.free > 0 and len(hungry) > 1:
            self._grabbers.remove(hungry[0])
            self._grabbers.append(hungry[0])  # who is served first now, comes last the next time
        while hungry and self.free > 0:
            share = max(1, self.free // len(hungry))
            for grabber in hungry:
                count = min(grabber.wanted, share, self.free)
                if count > 0:
                    self.free -= count
                    grabber.grab(count)
            hungry = [grabber for grabber in hungry if grabber.wanted > 0]

    def give_back(self, count: int) -> None:
        """Slots reserved for grabs that brought no job are free again."""
        self.free += count
        self.schedule_refill()

    def take_back(self, count: int) -> None:
        """Slots given back too early are taken after all; the pool may owe slots for a while."""
        self.free -= count

    def wait_for_budget(self) -> None:
        """Wait while the payloads in hand are over the byte budget. Switches: then."""
        while self.in_flight_bytes > self.max_in_flight_bytes:
            self._under_budget.clear()
            self._under_budget.wait()

    # ------------------------------------------------------------------ jobs

    def dispatch(self, job: GearmanJob) -> None:
        """Give a job, for which a slot was reserved, to a slot. Switches: never."""
        self.in_flight_bytes += job.data_bytes
        self._ready.append(job)
        if not self._waking:
            self._wake_slot()

    def _wake_slot(self) -> None:
        if self._idle:
            slot = self._idle.pop()
            self._waking = True
            self._hub.loop.run_callback(slot.switch)
        elif len(self._slots) < self.concurrency:
            self._waking = True
            # A bare greenlet: a gevent.Greenlet takes over 1 KiB more, for links and results that no slot needs.
            slot = greenlet(self._live, self._hub)
            self._slots.append(slot)
            self._hub.loop.run_callback(slot.switch)

    def _live(self) -> None:
        """A slot's life. The order of its statements is the path of every job."""
        ready, running, run = self._ready, self.running, self._run
        me = getcurrent()
        while not self._stopped:
            try:
                self._waking = False
                turn_started_at = 0.0
                while ready:
                    job = ready.popleft()
                    if ready and not self._waking:
                        self._wake_slot()
                    running.add(job)
                    me.gr_context = None  # no job sees the context variables of the one before
                    try:
                        run(job)
                    finally:
                        running.discard(job)
                        self.free += 1
                        if job.data_bytes:
                            self._release_bytes(job.data_bytes)
                        self.schedule_refill()
                    if not turn_started_at:
                        turn_started_at = job.started_at
                    elif ready and job.started_at - turn_started_at > TURN_S:
                        turn_started_at = 0.0
                        gevent.sleep(0)
                    del job  # a parked slot keeps no payload in memory
                if not self._stopped:
                    self._park(me)
            except BaseException as error:
                # A job can leave something behind that strikes its slot later: a Timeout started and never closed.
                if not self._stopped:
                    log.error("pool %s: a job left something behind that struck its slot: %r", self.name, error)

    def _park(self, me: greenlet) -> None:
        self._idle.append(me)
        try:
            self._hub.switch()
        except BaseException:
            if me in self._idle:
                self._idle.remove(me)
            else:
                self._hub.switch()  # it was being woken, and that switch is still to come
            raise

    def _release_bytes(self, count: int) -> None:
        self.in_flight_bytes -= count
        if self.in_flight_bytes <= self.max_in_flight_bytes and not self._under_budget.is_set():
            self._under_budget.set()

    def kill(self) -> None:
        """End all slots; handlers that run get a GreenletExit.

        Switches: until they have ended, ``KILL_S`` at most, for a handler may take its time to clean up.
        """
        self._stopped = True
        self._ready.clear()
        for slot in self._slots:
            self._hub.loop.run_callback(slot.throw, gevent.GreenletExit)
        deadline = monotonic() + KILL_S
        while not all(slot.dead for slot in self._slots) and monotonic() < deadline:
            gevent.sleep(0.001)
        self._slots.clear()
        self._idle.clear()

    @property
    def reserved(self) -> int:
        """Slots kept for grabs in flight and jobs about to start."""
        return max(0, self.concurrency - self.free - len(self.running))
