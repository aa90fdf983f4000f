"""The job server's answers to admin commands, pure.

One method for each command of ``gearworker.protocol.text``; the wording of the replies is there. Commands are matched
without regard to case, as gearmand matches them, and words beyond those a command needs are overlooked where gearmand
overlooks them.

Source: gearmand 1.1.20, libgearman-server/text.cc, and its answers to experiments.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from gearworker.protocol import text
from gearworker.protocol.queue import HIGH, LOW, NORMAL, Job, JobStore, Peer, QueueFull

_LEADING_INTEGER: Final = re.compile(rb"[ \t\n\v\f\r]*([+-]?[0-9]{1,19})")


class Identity(NamedTuple):
    """What a job server says of itself: the answers to version, getpid and verbose, and the prefix of its handles."""

    version: bytes
    pid: int
    log_level: bytes
    handle_prefix: bytes


def leading_integer(raw: bytes) -> int:
    """The number that a text starts with, 0 where there is none: C's atoi, without its overflow."""
    match = _LEADING_INTEGER.match(raw)
    return int(match[1]) if match else 0


class AdminDesk:
    """Answers admin commands about a job server.

    Args:
        identity: what it says of itself.
        store: its jobs.
        peers: its connections.
        fail_clients: sends WORK_FAIL to a job's clients.
    """

    def __init__(
        self,
        identity: Identity,
        store: JobStore,
        peers: Mapping[int, Peer],
        fail_clients: Callable[[Job], None],
    ) -> None:
        self._store = store
        self._peers = peers
        self._fail_clients = fail_clients
        self._commands: dict[bytes, Callable[[list[bytes]], bytes]] = {
            b"status": self._status,
            b"prioritystatus": self._priority_status,
            b"workers": self._workers,
            b"show": self._show,
            b"cancel": self._cancel,
            b"maxqueue": self._maxqueue,
            b"create": self._create_function,
            b"drop": self._drop_function,
            b"version": lambda words: text.format_value(identity.version),
            b"getpid": lambda words: text.format_value(b"%d" % identity.pid),
            b"verbose": lambda words: text.format_value(identity.log_level),
        }

    def answer(self, line: bytes) -> bytes | None:
        """The reply to a line; None to close the connection without one, since it has too many words."""
        words = text.split_words(line)
        if len(words) > text.MAX_WORDS:
            return None
        command = self._commands.get(words[0].lower())
        return command(words) if command is not None else text.format_unknown_command(words[0])

    def _status(self, words: list[bytes]) -> bytes:
        tasks = self._store.tasks.values()
        return text.format_status((task.name, task.total, task.running, task.workers) for task in tasks)

    def _priority_status(self, words: list[bytes]) -> bytes:
        later = self._store.later_by_task()
        return text.format_priority_status(
            (t.name, len(t.queues[HIGH]), len(t.queues[NORMAL]) + later[t], len(t.queues[LOW]), t.workers)
            for t in self._store.tasks.values()
        )

    def _workers(self, words: list[bytes]) -> bytes:
        return text.format_workers(
            (peer.file_descriptor, peer.ip, peer.client_id, [task.name for task in reversed(peer.abilities)])
            for peer in self._peers.values()
        )

    def _show(self, words: list[bytes]) -> bytes:
        if len(words) < 2:
            return text.format_unknown_command(words[0])
        what = [word.lower() for word in words[1:]]
        jobs = self._store.jobs.values()
        if what == [b"jobs"]:
            return text.format_jobs((job.handle, job.retries, job.ignored, job.background) for job in jobs)
        if what == [b"unique", b"jobs"]:
            return text.format_unique_jobs(job.unique for job in jobs)
        return text.ERR_UNKNOWN_SHOW_ARGUMENTS

    def _cancel(self, words: list[bytes]) -> bytes:
        if len(words) < 3:
            return text.format_unknown_command(words[0])
        if len(words) > 3 or words[1].lower() != b"job":
            return text.ERR_UNKNOWN_ERROR
        job = self._store.jobs.get(words[2])
        if job is None:
            return text.ERR_UNKNOWN_JOB
        self._fail_clients(job)
        self._store.cancel(job)
        return text.OK

    def _maxqueue(self, words: list[bytes]) -> bytes:
        if len(words) == 1:
            return text.format_incomplete(words[0])
        sizes = [max(leading_integer(word), 0) for word in words[2:]]
        task = self._store.tasks.get(words[1])
        if task is not None:
            task.max_queue = (sizes or [0]) * 3 if len(sizes) < 2 else [*sizes, 0][:3]
        return text.OK

    def _create_function(self, words: list[bytes]) -> bytes:
        if len(words) != 3 or words[1].lower() != b"function" or not words[2]:
            return text.format_incomplete(words[0])
        try:
            self._store.task(words[2])
        except QueueFull:
            return b"ERR CREATE_FUNCTION %b\r\n" % words[2]
        return text.OK

    def _drop_function(self, words: list[bytes]) -> bytes:
        if len(words) != 3 or words[1].lower() != b"function":
            return text.format_incomplete(words[0])
        task = self._store.tasks.get(words[2])
        if task is None:
            return text.ERR_FUNCTION_NOT_FOUND
        if task.workers or task.total:
            return text.ERR_FUNCTION_IN_USE
        del self._store.tasks[words[2]]
        return text.OK
