"""Middleware: hooks around each job, for what the worker's heart knows nothing of, such as metrics and tracing.

Subclass ``Middleware``, override what you need, and hand an instance to the worker. Hooks that are not overridden cost
nothing. A hook that raises is logged and never harms the job. Hooks run in the worker's hub, also for jobs in native
threads, so they must not block.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

from gearworker.job import GearmanJob
from gearworker.protocol.packets import PacketType

log = logging.getLogger(__name__)

Outcome = Literal["complete", "fail", "exception", "timeout", "lost"]
OUTCOMES: Final[tuple[Outcome, ...]] = ("complete", "fail", "exception", "timeout", "lost")


class Middleware:
    """Hooks that do nothing."""

    def before_job(self, job: GearmanJob) -> None:
        """The job's handler is about to be called. ``job.data`` is still the raw payload."""

    def after_job(
        self, job: GearmanJob, outcome: Outcome, duration_s: float, result_bytes: int, error: BaseException | None
    ) -> None:
        """The job has ended.

        Args:
            outcome: what the job server was told, or "lost" where it could not be told.
            duration_s: from the handler's first call to its end, retries included, in seconds.
            result_bytes: the size of the final packet's data.
            error: what ended it, other than its result.
        """

    def after_update(self, job: GearmanJob, packet_type: PacketType, data_bytes: int) -> None:
        """The job has sent WORK_DATA, WORK_WARNING or WORK_STATUS, with so many bytes of data."""

    def job_server_up(self, address: str, pool: str) -> None:
        """A pool's connection to a job server is established and its tasks are registered."""

    def job_server_down(self, address: str, pool: str, reason: str) -> None:
        """A pool's connection to a job server has ended."""

    def job_server_away(self, address: str, pool: str, reason: str) -> None:
        """An attempt to connect a pool to a job server has failed."""


def overridden(middleware: Sequence[Middleware], hook: str) -> tuple[Callable[..., Any], ...]:
    """The bound methods of those that override this hook, in order."""
    return tuple(getattr(m, hook) for m in middleware if getattr(type(m), hook) is not getattr(Middleware, hook))


def call_hook(hook: Callable[..., Any], *args: Any) -> None:
    """Call a hook; log what it raises."""
    try:
        hook(*args)
    except BaseException:
        log.exception("middleware %s failed", getattr(hook, "__qualname__", hook))


class JobLog(Middleware):
    """Logs how jobs end: what raised with its traceback, what failed or was lost in a line, the rest at debug level."""

    def after_job(
        self, job: GearmanJob, outcome: Outcome, duration_s: float, result_bytes: int, error: BaseException | None
    ) -> None:
        if outcome == "complete":
            if log.isEnabledFor(logging.DEBUG):
                log.debug("job complete in %.3f s", duration_s, extra=_fields(job))
        elif outcome == "exception":
            log.error("job raised %s", type(error).__name__, extra=_fields(job), exc_info=error)
        elif outcome == "lost":
            log.warning("job lost: its connection ended before its answer was sent", extra=_fields(job))
        elif outcome == "timeout":
            log.error("job timed out: %s", error, extra=_fields(job))
        else:
            log.warning("job failed: %s", error, extra=_fields(job))


def _fields(job: GearmanJob) -> dict[str, Any]:
    return {"task": job.task, "handle": job.handle, "unique": job.unique}
