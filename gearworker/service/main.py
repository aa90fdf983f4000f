"""The service as a whole: supervisor, embedded job server, endpoint and systemd, from start to exit code."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

from gearworker.config import Config
from gearworker.http.app import Sources
from gearworker.http.server import Endpoint
from gearworker.logs import configure_logging
from gearworker.metrics import CountsCollector, make_registry
from gearworker.net.address import Address
from gearworker.queues import QueueCollector
from gearworker.service.announcer import Announcer
from gearworker.service.assembly import (
    make_embedded_job_server,
    resolve_addresses,
    start_embedded_job_server,
    start_endpoint,
)
from gearworker.service.channel import Start
from gearworker.service.exposition import ProcessesCollector
from gearworker.service.supervisor import Supervisor

log = logging.getLogger(__name__)

ReadConfig = Callable[[], tuple[Config, str]]
"""Reads the configuration: checked, and as the text that it came from."""


def run_service(read_config: ReadConfig, *, verbose: bool = False) -> int:
    """Run the service until a signal ends it.

    Args:
        read_config: called at the start and for each reload.
        verbose: show tracebacks of modules that can't be imported.

    Returns: the process's exit code, as ``Supervisor`` says.

    Raises:
        ConfigError: the configuration, or an address in it, can't be used.

    Switches: all the time.
    """
    return _Service(read_config, verbose).run()


class _Service:
    """The parts that live as long as the service, and what a reload changes of them."""

    def __init__(self, read_config: ReadConfig, verbose: bool) -> None:
        self._read_config, self._verbose = read_config, verbose
        config, text = read_config()
        self._embedded = make_embedded_job_server(config)
        self._addresses = self._resolve(config)
        self._supervisor = Supervisor(config, self._start_message(config, text), self._reload, Announcer())
        self._endpoint: Endpoint | None = None
        self._listen = config.http

    def run(self) -> int:
        config = self._supervisor.config
        configure_logging(config.log.level, config.log.format)
        try:
            start_embedded_job_server(config, self._embedded)
            self._endpoint = start_endpoint(config, self._sources())
            log.info("supervisor %d: %d processes wanted; stop with SIGTERM", os.getpid(), self._supervisor.wanted)
            return self._supervisor.run()
        finally:
            for part in (self._endpoint, self._embedded):
                if part is not None:
                    part.stop()

    def _sources(self) -> Sources:
        supervisor = self._supervisor
        registry = make_registry(
            CountsCollector(supervisor.fleet.counts),
            ProcessesCollector(supervisor),
            QueueCollector(self._addresses, lambda: supervisor.fleet.tasks),
        )
        return Sources(registry, lambda: supervisor.alive, lambda: supervisor.ready, supervisor.fleet.running_jobs)

    def _reload(self) -> tuple[Config, Start]:
        """Read the configuration anew and take over what is ours of it.

        Raises:
            ConfigError: it can't be used; nothing has changed then.
        """
        config, text = self._read_config()
        if (make_embedded_job_server(config) is None) != (self._embedded is None):
            raise config.error("job_servers", "the embedded job server can't come or go by a reload; restart instead")
        if config.processes == 0:
            raise config.error("processes", "a supervisor can't become the worker itself by a reload; restart instead")
        addresses = self._resolve(config)
        if config.http != self._listen:
            endpoint = start_endpoint(config, self._sources())
            if self._endpoint is not None:
                self._endpoint.stop()
            self._endpoint, self._listen = endpoint, config.http
        self._addresses[:] = addresses
        configure_logging(config.log.level, config.log.format)
        return config, self._start_message(config, text)

    def _resolve(self, config: Config) -> list[Address]:
        return list(resolve_addresses(config, self._embedded.address if self._embedded else None))

    def _start_message(self, config: Config, text: str) -> Start:
        return Start(
            config_text=text,
            config_file=config.file or "config",
            log_level=config.log.level,
            log_format=config.log.format,
            embedded_address=self._embedded.address if self._embedded else None,
            verbose=self._verbose,
        )
