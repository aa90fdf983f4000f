"""Delays between attempts: doubling up to a cap, with jitter, so that many workers don't come back at once."""

from __future__ import annotations

import random
from collections.abc import Callable


class Backoff:
    """A row of delays that starts over after a success.

    Args:
        first_s: the first delay, before jitter, in seconds.
        cap_s: no delay is longer, in seconds.
        random: gives numbers from 0 to 1.

    Each delay is between half of the doubled value and all of it.
    """

    __slots__ = ("_attempts", "_cap_s", "_first_s", "_random")

    def __init__(self, first_s: float = 0.1, cap_s: float = 10.0, random: Callable[[], float] = random.random) -> None:
        self._first_s, self._cap_s, self._random = first_s, cap_s, random
        self._attempts = 0

    def next_s(self) -> float:
        """The delay before the next attempt, in seconds."""
        # The exponent is bounded, so that a server away for weeks can't overflow a float.
        full_s = min(self._cap_s, self._first_s * 2.0 ** min(self._attempts, 32))
        self._attempts += 1
        return full_s * (0.5 + 0.5 * self._random())

    def reset(self) -> None:
        """Start over after a success."""
        self._attempts = 0
