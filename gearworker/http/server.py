"""Serving the endpoint: gevent's WSGI server with bounds, so that slow clients can't pile up."""

from __future__ import annotations

import logging
from typing import Any, Final

import gevent
from gevent.pool import Pool
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
        self._server = WSGIServer(
            (host.strip("[]"), int(port)), app, log=None, error_log=log, handler_class=_Handler,
            spawn=Pool(MAX_CONNECTIONS),
        )  # fmt: skip

    def start(self) -> None:
        """Listen.

        Raises:
            ConfigError: the address can't be listened on.
        """
        try:
            self._server.start()
        except OSError as error:
            raise ConfigError(f"can't listen on {self._listen}: {error.strerror or error}", key="http.listen") from None
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
