"""When the next worker process may be started, and whether processes can start at all."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from gearworker.net.backoff import Backoff

log = logging.getLogger(__name__)

EXIT_CRASHED: Final = 1
EXIT_CANT_START: Final = 2
_STABLE_S: Final = 30.0
_MAX_FAILED: Final = 3


class Starts:
    """Spaces the starts of processes after a loss, from 1 to 30 s, and sees where every start is in vain.

    Args:
        clock: monotonic, in seconds.

    Attributes:
        proven: whether a process has ever begun to serve; from then on no failed start ends the service.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.proven = False
        self._clock = clock
        self._next_at = 0.0
        self._failed = 0
        self._backoff = Backoff(first_s=1.0, cap_s=30.0)

    @property
    def due(self) -> bool:
        """Whether a process may be started now."""
        return self._clock() >= self._next_at

    def begin_anew(self) -> None:
        """Forget past losses: what is started next is not what failed before."""
        self._backoff.reset()
        self._next_at = self._clock()

    def pause(self, pause_s: float) -> None:
        """Start nothing for a while, in seconds."""
        self._next_at = self._clock() + pause_s

    def note_loss(self, age_s: float = 0.0) -> None:
        """A process is missing: delay the next start, by more than the last time unless that one lived long.

        Args:
            age_s: for how long it lived, in seconds.
        """
        if age_s > _STABLE_S:
            self._backoff.reset()
        delay_s = self._backoff.next_s()
        self.pause(delay_s)
        log.info("the next process starts in %.1f s at the earliest", delay_s)

    def note_failure(self, exit_code: int) -> int | None:
        """A process ended before it began to serve, or was not even made; give the service's exit code if that is all.

        Args:
            exit_code: its own; ``EXIT_CANT_START`` says that it knows why, and that the next would not fare better.
        """
        self._failed += 1
        if self.proven or (exit_code != EXIT_CANT_START and self._failed < _MAX_FAILED):
            return None
        log.error("the worker processes can't start; stopping (the reason is above)")
        return EXIT_CANT_START if exit_code == EXIT_CANT_START else EXIT_CRASHED
