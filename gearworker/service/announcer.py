"""What systemd is told of the supervisor, step by step."""

from __future__ import annotations

from time import monotonic

from gearworker.service.supervisor import Supervisor
from gearworker.systemd import Notifier


class Announcer:
    """Tells systemd how the supervisor is, and feeds its watchdog only while every worker process beats.

    Args:
        notifier: to systemd.
    """

    def __init__(self, notifier: Notifier | None = None) -> None:
        self._notifier = notifier or Notifier()
        self._interval_s = self._notifier.watchdog_interval_s()
        self._fed_at = 0.0
        self._state = "starting"
        self._status = ""

    def __call__(self, supervisor: Supervisor) -> None:
        """Look at the supervisor; say what is new."""
        if not self._notifier.enabled:
            return
        self._announce_state(supervisor)
        if self._interval_s is not None and supervisor.alive and monotonic() - self._fed_at >= self._interval_s:
            self._fed_at = monotonic()
            self._notifier.watchdog()

    def _announce_state(self, supervisor: Supervisor) -> None:
        status = supervisor.status()
        state = _state(supervisor, self._state)
        if state != self._state:
            self._state = state
            {
                "ready": self._notifier.ready,
                "reloading": self._notifier.reloading,
                "stopping": self._notifier.stopping,
            }[state](status)
        elif status != self._status:
            self._notifier.status(status)
        self._status = status


def _state(supervisor: Supervisor, before: str) -> str:
    if supervisor.stopping is not None:
        return "stopping"
    if supervisor.reloading and before != "starting":
        return "reloading"
    return "ready" if before != "starting" or supervisor.started else "starting"
