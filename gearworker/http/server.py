"""Serving the endpoint: gevent's WSGI server with bounds, so that slow clients can't pile up.

A connection carries one request and lives for a bounded time. There is a bounded number of them, and where one too many
comes, the oldest is closed: many clients that say nothing can't keep a probe or a scrape from its answer.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any, Final, cast

import gevent
from gevent.pywsgi import WSGIHandler, WSGIServer

from gearworker.errors import ConfigError
from gearworker.http.app import EndpointApp

log = logging.getLogger(__name__)

MAX_CONNECTIONS: Final = 64
REQUEST_TIMEOUT_S: Final = 10.0


class _Handler(WSGIHandler):
    """One request a connection, all of it within a time limit."""

    def handle(self) -> None:
        with gevent.Timeout(REQUEST_TIMEOUT_S, False):  # type: ignore[arg-type]  # False: end quietly
            super().handle()


class _Connections:
    """Starts a greenlet for each connection; where there are too many, the oldest has to go."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: dict[gevent.Greenlet[..., Any], None] = {}  # in the order of their start

    def end(self) -> None:
        """End them all. Switches: briefly."""
        gevent.killall(list(self._open))

    def __call__(self, handle: Callable[..., Any], *args: Any, **options: Any) -> gevent.Greenlet[..., Any]:
        if len(self._open) >= self._limit:
            oldest = next(iter(self._open))
            del self._open[oldest]
            oldest.kill(block=False)
        greenlet: gevent.Greenlet[..., Any] = gevent.spawn(handle, *args, **options)
        self._open[greenlet] = None
        greenlet.rawlink(lambda ended: self._open.pop(ended, None))
        return greenlet


class Endpoint:
    """The HTTP endpoint of a process.

    Args:
        listen: "host:port" or "[IPv6]:port"; port 0 takes a free one.
        app: what to serve.
    """

    def __init__(self, listen: str, app: EndpointApp) -> None:
        host, _, port = listen.rpartition(":")
        self._listen = listen
        # pywsgi's own logs: none of each request, errors to ours.
        self._connections = _Connections(MAX_CONNECTIONS)
        self._server = WSGIServer(
            (host.strip("[]"), int(port)), app, log=None, error_log=log, handler_class=_Handler,
            spawn=cast(Any, self._connections),
        )  # fmt: skip

    def start(self) -> None:
        """Listen.

        Raises:
            ConfigError: the address can't be listened on.
        """
        try:
            self._server.start()
        except OSError as error:
            # Not the error's own text: gevent puts the address into it once more.
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise ConfigError(f"can't listen on {self._listen}: {reason}", key="http.listen") from None
        log.info("metrics and health at %s", self.url)

    @property
    def port(self) -> int:
        """The port listened on."""
        return int(self._server.server_port or 0)

    @property
    def url(self) -> str:
        """The endpoint's root as a URL."""
        host: Any = self._server.server_host
        return f"http://[{host}]:{self.port}/" if ":" in host else f"http://{host}:{self.port}/"

    def stop(self) -> None:
        """Stop listening and end the connections. Switches: briefly."""
        self._server.stop(timeout=0)
        self._connections.end()
