"""Telling systemd how the service is: sd_notify's datagrams, and the watchdog's interval.

systemd passes the address of a socket in ``$NOTIFY_SOCKET`` to a service of ``Type=notify``. Elsewhere the variable is
missing, and nothing here does anything. A message that can't be sent is logged and forgotten: a service must not end
because of who watches it.

Source: sd_notify(3), sd_watchdog_enabled(3).
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping
from time import monotonic_ns
from typing import Final

log = logging.getLogger(__name__)

VARIABLES: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
"""What systemd sets for the main process alone; processes that it starts are better off without."""

_SEND_TIMEOUT_S: Final = 1.0  # a manager that does not read must not hold the service up
_MAX_STATUS: Final = 512


class Notifier:
    """Sends the state of this service to systemd; does nothing where there is none.

    Args:
        environ: the environment; the process's own by default.

    Every method that sends gives whether the message went out, and never raises.
    """

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self._environ = os.environ if environ is None else environ
        self._address = _socket_address(self._environ.get("NOTIFY_SOCKET", ""))
        self._failed = False

    @property
    def enabled(self) -> bool:
        """Whether somebody wants to be told."""
        return bool(self._address)

    def ready(self, status: str | None = None) -> bool:
        """Say that the service has started, or has finished a reload."""
        return self.notify(READY="1", STATUS=status)

    def reloading(self, status: str | None = None) -> bool:
        """Say that a reload has begun; ``ready`` ends it."""
        return self.notify(RELOADING="1", MONOTONIC_USEC=str(monotonic_ns() // 1000), STATUS=status)

    def stopping(self, status: str | None = None) -> bool:
        """Say that the service is on its way out."""
        return self.notify(STOPPING="1", STATUS=status)

    def status(self, status: str) -> bool:
        """Set the line that ``systemctl status`` shows."""
        return self.notify(STATUS=status)

    def watchdog(self) -> bool:
        """Say that the service is alive; due every ``watchdog_interval_s()``."""
        return self.notify(WATCHDOG="1")

    def watchdog_interval_s(self) -> float | None:
        """How often ``watchdog`` is due, in seconds: half the time after which systemd acts.

        Returns: None where no watchdog is set, or it is meant for another process.
        """
        microseconds, pid = self._environ.get("WATCHDOG_USEC", ""), self._environ.get("WATCHDOG_PID", "")
        if pid and pid != str(os.getpid()):
            return None
        if not (microseconds.isascii() and microseconds.isdigit()) or int(microseconds) == 0:
            return None
        return int(microseconds) / 2 / 1_000_000

    def notify(self, **fields: str | None) -> bool:
        """Send fields in one message.

        Args:
            fields: by systemd's names; those that are None are left out.

        Switches: up to a second, where systemd is slow to read.
        """
        lines = [f"{name}={_one_line(value)}" for name, value in fields.items() if value is not None]
        if not self._address or not lines:
            return False
        try:
            # A socket for each message: none to be inherited by children, or to be left broken by a manager's restart.
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.settimeout(_SEND_TIMEOUT_S)
                sock.sendto("\n".join(lines).encode(errors="replace"), self._address)
        except OSError as error:
            self._report(error)
            return False
        self._failed = False
        return True

    def _report(self, error: OSError) -> None:
        """Log the first failure of a row; the watchdog would repeat it for ever."""
        if not self._failed:
            log.warning("can't notify systemd: %s", error.strerror or error)
        self._failed = True


def _socket_address(variable: str) -> str:
    """The variable as a socket's address; empty where it is neither a path nor an abstract name ("@...")."""
    if variable.startswith("@") and len(variable) > 1:
        return "\0" + variable[1:]
    return variable if variable.startswith("/") else ""


def _one_line(text: str) -> str:
    """The text without line breaks, which would begin another field, and of bounded length."""
    return "".join(char if char.isprintable() else " " for char in text[:_MAX_STATUS])
