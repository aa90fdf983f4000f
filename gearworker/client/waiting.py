"""Ways to wait for many requests or answers at once, in one hub, each with a deadline."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from itertools import takewhile
from typing import Any

from gevent.event import Event

from gearworker.client.updates import StreamedRequest
from gearworker.protocol.packets import Packet
from gearworker.request import JOB_FAILED, JOB_PENDING, JOB_UNKNOWN, GearmanJobRequest

Requests = Sequence[GearmanJobRequest]
Answered = Callable[["Packet | None"], None]
"""Is called with the answer to a question (which may be an ERROR), or with None when the connection was lost."""


class Deadline:
    """A point in time on the monotonic clock, or none.

    Args:
        timeout_s: from now on; None for no deadline.
    """

    __slots__ = ("_at",)

    def __init__(self, timeout_s: float | None) -> None:
        self._at = None if timeout_s is None else time.monotonic() + timeout_s

    def remaining_s(self, at_most_s: float | None = None) -> float | None:
        """Seconds left, not below 0; None where there is no deadline and no ``at_most_s``."""
        if self._at is None:
            return at_most_s
        left_s = max(0.0, self._at - time.monotonic())
        return left_s if at_most_s is None else min(left_s, at_most_s)

    @property
    def is_over(self) -> bool:
        """Whether no time is left."""
        return self._at is not None and time.monotonic() >= self._at


Send = Callable[[Requests, Deadline], None]


def is_accepted(request: GearmanJobRequest) -> bool:
    """Whether it is not on its way to a job server."""
    return request.state != JOB_PENDING


def is_finished(request: GearmanJobRequest) -> bool:
    """Whether it need not be waited for: it is complete, refused or lost."""
    return request.complete or request.state in (JOB_UNKNOWN, JOB_FAILED)


def has_news(request: GearmanJobRequest) -> bool:
    """Whether a stream has updates to give, or has ended."""
    return bool(isinstance(request, StreamedRequest) and request.updates) or is_finished(request)


class Gathering:
    """Waits until each of many requests is in a state that is good enough.

    Args:
        requests: the requests.
        is_done: whether a request need not be waited for any longer.
    """

    def __init__(self, requests: Requests, is_done: Callable[[GearmanJobRequest], bool]) -> None:
        self._is_done = is_done
        self._event = Event()
        self._waiting = [request for request in requests if not is_done(request)]
        self._missing = len(self._waiting)
        for request in self._waiting:
            request.watch(self)

    def request_changed(self, request: GearmanJobRequest) -> None:
        """A request has changed."""
        if self._is_done(request):
            request.unwatch(self)
            self._missing -= 1
            if not self._missing:
                self._event.set()

    def wait(self, deadline: Deadline) -> bool:
        """Wait for all of them.

        Returns: False where the time ran out first.

        Switches: unless all are done already.
        """
        try:
            return not self._missing or bool(self._event.wait(deadline.remaining_s()))
        finally:
            if self._missing:
                for request in self._waiting:
                    request.unwatch(self)


class Answers:
    """Collects the answers to several questions."""

    def __init__(self) -> None:
        self._open = 0
        self._event = Event()
        self.by_key: dict[Any, Packet | None] = {}

    def expect(self, key: Any) -> Answered:
        """Have one more answer to wait for; None is kept for one whose connection was lost."""
        self._open += 1
        return partial(self._take, key)

    def _take(self, key: Any, answer: Packet | None) -> None:
        self.by_key[key] = answer
        self._open -= 1
        if not self._open:
            self._event.set()

    def wait(self, deadline: Deadline) -> bool:
        """Wait for all answers. Returns: False where the time ran out first."""
        return not self._open or bool(self._event.wait(deadline.remaining_s()))


class Arrivals:
    """Foreground requests under way, given back as they end.

    Args:
        ordered: in the order in which they were submitted, not in which they end.
    """

    def __init__(self, *, ordered: bool) -> None:
        self._ordered = ordered
        self._under_way: dict[GearmanJobRequest, None] = {}
        self._arrived: deque[GearmanJobRequest] = deque()
        self._event = Event()

    def __len__(self) -> int:
        return len(self._under_way)

    def request_changed(self, request: GearmanJobRequest) -> None:
        """A request has changed."""
        if is_finished(request):
            request.unwatch(self)
            self._arrived.append(request)
            self._event.set()

    def submit(self, send: Send, requests: Requests, deadline: Deadline) -> None:
        """Send requests, by ``Exchange.send``, without waiting for anything; errors are those of ``send``."""
        send(requests, deadline)
        for request in requests:
            self._under_way[request] = None
            request.watch(self)
            self.request_changed(request)

    def take(self, send: Send, deadline: Deadline) -> list[GearmanJobRequest]:
        """The requests that have ended and are due; lost ones are sent again while they have attempts left.

        Returns: at least one; none where the time ran out.

        Switches: until there is one.
        """
        while True:
            arrived, self._arrived = self._arrived, deque()
            lost = [request for request in arrived if _may_be_sent_again(request)]
            if lost:
                self.submit(send, lost, deadline)  # they keep their places in the order
            ended = list(takewhile(_is_due, self._under_way) if self._ordered else filter(self._is_here, arrived))
            for request in ended:
                del self._under_way[request]
            if ended:
                return ended
            self._event.clear()
            if not self._arrived and not self._event.wait(deadline.remaining_s()):
                return []

    def _is_here(self, request: GearmanJobRequest) -> bool:
        return request in self._under_way and _is_due(request)


def _is_due(request: GearmanJobRequest) -> bool:
    return is_finished(request) and not _may_be_sent_again(request)


def _may_be_sent_again(request: GearmanJobRequest) -> bool:
    return request.state == JOB_UNKNOWN and request.connection_attempts < request.max_connection_attempts
