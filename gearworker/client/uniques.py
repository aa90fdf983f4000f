"""Submits under uniques that the caller chose, kept from those on which gearmand loses jobs.

Theory of operation. Jobs with one task and unique are one job, and gearmand keeps to that where it should not. A
background job that joins a foreground one, or is joined by one, is dropped when the foreground client leaves. A job
that joins one that was cancelled, or left by its last client, is answered by JOB_CREATED and never run.

So a chosen unique is looked up right before its submit. GET_STATUS_UNIQUE tells how many clients wait for the job that
holds it, and thus what it is:

* foreground submits may join where clients wait; where none does, the job is a background job or a dead one;
* background submits may join where no client waits. That job may be a dead one too, which only ``show jobs`` tells, so
  the accepted handle is looked for there, while the job server's queues are short enough to be listed.

A submit that would be lost ends FAILED with ``InvalidClientState`` (``JobLost`` where it was accepted already). Two
submits of one client look up the same unique one after the other. Between different clients a gap of one round trip
remains.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection, Sequence
from typing import Final

import gevent

from gearworker.client.admin import AdminLink
from gearworker.client.link import Link
from gearworker.client.waiting import Answers, Deadline, Requests
from gearworker.errors import GearmanError, InvalidClientState, JobLost
from gearworker.protocol import text
from gearworker.protocol.packets import Packet, PacketType
from gearworker.request import JOB_CREATED, JOB_UNKNOWN, GearmanJobRequest

MAX_LISTED_JOBS: Final = 10_000
_LIST_S: Final = 5.0
_TURN_S: Final = 0.001


def unique_of(request: GearmanJobRequest) -> bytes:
    """A request's unique as it is sent."""
    return (request.gearman_job.unique or "").encode("utf-8", "surrogateescape")


def look_up(link: Link, uniques: Collection[bytes], deadline: Deadline) -> dict[bytes, Packet | None]:
    """Ask a job server for uniques; gives the answers that came, None for those lost with the connection.

    Raises:
        ConnectionLost: there is no connection.

    Switches: yes.
    """
    answers = Answers()
    for unique in uniques:
        link.ask(link.protocol.get_unique_status, answers.expect(unique), unique)
        link.wait_writable()
    answers.wait(deadline)
    return answers.by_key


class UniqueGuard:
    """Submits requests, and keeps those with chosen uniques from being lost.

    Args:
        is_active: False submits everything as it is.
    """

    def __init__(self, *, is_active: bool) -> None:
        self._is_active = is_active
        self._in_check: set[tuple[Link, bytes]] = set()
        # Weak, because a request whose submit was given up is never verified.
        self._doubtful: weakref.WeakSet[GearmanJobRequest] = weakref.WeakSet()

    def submit(self, link: Link, requests: Requests, deadline: Deadline) -> None:
        """Submit requests to a job server; some of them may be FAILED or, where time ran out, still UNKNOWN.

        Raises:
            ConnectionLost: the connection ended.

        Switches: yes.
        """
        chosen: dict[bytes, list[GearmanJobRequest]] = {}
        for request in requests if self._is_active else ():
            if not request.has_fresh_unique:
                chosen.setdefault(unique_of(request), []).append(request)
        if not chosen:
            link.submit(requests)
            return
        keys = {(link, unique) for unique in chosen}
        while not self._in_check.isdisjoint(keys):
            if deadline.is_over:
                return
            gevent.sleep(_TURN_S)
        self._in_check |= keys
        try:
            holders = look_up(link, chosen, deadline)
            for unique, holder in holders.items():
                self._judge(link, chosen[unique], holder)
            may_go = {id(request) for unique in holders for request in chosen[unique]}
            link.submit([r for r in requests if r.state == JOB_UNKNOWN and (r.has_fresh_unique or id(r) in may_go)])
        finally:
            self._in_check -= keys

    def _judge(self, link: Link, requests: Sequence[GearmanJobRequest], holder: Packet | None) -> None:
        """End those of the requests with one unique that would be lost; remember those that may be."""
        background = requests[0].background
        fault = None
        if holder is not None and holder.type is PacketType.STATUS_RES_UNIQUE and holder.args[1] == b"1":
            has_clients, is_running = holder.args[5] != b"0", holder.args[2] == b"1"
            if background and has_clients:
                fault = "is held by a foreground job, and a background job would be dropped with it"
            elif not background and not has_clients:
                fault = "is held by a background job, or by one that was cancelled or that its client has left"
            elif background and not is_running:
                self._doubtful.update(request for request in requests if request.background)
        for request in requests:
            reason = fault or "is used by a background and a foreground job at once"
            if fault is not None or request.background != background:
                request.submit_sent(link)
                request.failed(InvalidClientState(f"{link.address}: unique {request.gearman_job.unique!r} {reason}"))

    def verify(self, requests: Requests, deadline: Deadline) -> None:
        """End those FAILED that were accepted onto a job that is never run.

        Switches: where there is a doubt.
        """
        if not self._doubtful:
            return
        by_link: dict[object, list[GearmanJobRequest]] = {}
        for request in [request for request in requests if request in self._doubtful]:
            self._doubtful.discard(request)
            if request.state == JOB_CREATED:
                by_link.setdefault(request.gearman_job.connection, []).append(request)
        for link, doubtful in by_link.items():
            assert isinstance(link, Link)
            dead = _dead_handles(link, deadline)
            for request in doubtful:
                if request.gearman_job.handle in dead:
                    request.failed(JobLost(request.gearman_job.handle or "", link.address))


def _dead_handles(link: Link, deadline: Deadline) -> set[str]:
    """The handles of jobs that are never to run; none where the job server can't be asked for them."""
    admin = AdminLink(link.parsed_address)
    limit = Deadline(deadline.remaining_s(_LIST_S))
    try:
        if sum(row.total for row in admin.ask_for(text.status(), limit)) > MAX_LISTED_JOBS:
            return set()
        return {row.handle for row in admin.ask_for(text.show_jobs(), limit) if row.ignored}
    except GearmanError:
        return set()
    finally:
        admin.close()
