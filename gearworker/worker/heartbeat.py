"""Is the job server still there? A silent one is asked for an echo, and given up where none comes."""

from __future__ import annotations

from typing import Literal

HeartbeatAction = Literal["ask", "give up"]


class Heartbeat:
    """Decides, about once a second, what to do about a job server's silence.

    It counts ticks where it waits for an answer: after a blocked hub one tick comes, however long that was, so the
    answer that waits to be read is never taken for missing.

    Args:
        idle_s: after so long without a byte the job server is asked.
        timeout_s: an answer that takes more ticks than this does not come any more.
    """

    __slots__ = ("_idle_s", "_ticks", "_timeout_s")

    def __init__(self, idle_s: float, timeout_s: float) -> None:
        self._idle_s, self._timeout_s = idle_s, timeout_s
        self._ticks: int | None = None  # since the question that is not answered yet

    def tick(self, silent_s: float, *, ask_now: bool = False) -> HeartbeatAction | None:
        """A second has passed.

        Args:
            silent_s: since the last byte came, in seconds. Any byte shows life, also where the answer is queued behind.
            ask_now: ask without waiting for silence.
        """
        if self._ticks is None:
            if silent_s < self._idle_s and not ask_now:
                return None
            self._ticks = 0
            return "ask"
        self._ticks = self._ticks + 1 if silent_s >= 1.0 else 0
        return "give up" if self._ticks > self._timeout_s else None

    def answered(self) -> None:
        """The answer has come."""
        self._ticks = None
