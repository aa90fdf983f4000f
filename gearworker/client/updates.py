"""What comes of a job while it runs, one typed update after the other."""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

from gearworker.job import GearmanJob
from gearworker.request import JOB_COMPLETE, JOB_CREATED, JOB_FAILED, PRIORITY_NONE, GearmanJobRequest


class JobUpdate(NamedTuple):
    """Something that came of a job.

    Args:
        kind: "data", "warning", "status", and last one of "result", "fail" and "exception".
        data: what it carried, decoded; None for "status" and "fail".
        numerator, denominator: how far the job is, for "status".
    """

    kind: str
    data: Any = None
    numerator: int | None = None
    denominator: int | None = None


class StreamedRequest(GearmanJobRequest):
    """A request whose updates are kept in the order in which they came, in one queue; ``data_updates`` stays empty."""

    __slots__ = ("updates",)

    def __init__(
        self,
        gearman_job: GearmanJob,
        initial_priority: str | None = PRIORITY_NONE,
        background: bool = False,
        max_attempts: int = 1,
    ) -> None:
        self.updates: deque[JobUpdate] = deque()
        super().__init__(gearman_job, initial_priority, background, max_attempts)

    def take_update(self, kind: str, value: Any) -> None:
        """Keep an update of data or a warning."""
        self.updates.append(JobUpdate(kind, value))

    def work_status(self, numerator: int, denominator: int, time_received: float) -> None:
        """Keep how far the job is."""
        self._move(JOB_CREATED, JOB_CREATED, "WORK_STATUS")
        self.updates.append(JobUpdate("status", None, numerator, denominator))
        super().work_status(numerator, denominator, time_received)

    def final_update(self) -> JobUpdate:
        """How the job ended.

        Raises:
            Exception: it did not end by itself; what came between, as in ``result_or_raise``.
        """
        if self.state == JOB_COMPLETE:
            return JobUpdate("result", self.result)
        if self.state == JOB_FAILED and not isinstance(self.exception, Exception):
            return JobUpdate("fail") if self.exception is None else JobUpdate("exception", self.exception)
        self.result_or_raise()
        raise AssertionError("unreachable")
