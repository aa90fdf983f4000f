"""A worker process under the supervisor: a fresh interpreter that gets its configuration over the channel.

It sends a beat four times a second, which shows the supervisor that its hub turns, and reports its counts with every
fourth and on request. When the channel ends, the supervisor is gone: it drains and ends by itself. TERM and INT sent to
it directly drain it too. Where its hub is blocked, the supervisor's ``STACK_SIGNAL`` makes the interpreter write the
blocked stack to a file that both share, without any help of ours.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
from collections.abc import Callable
from typing import Any, Final

import gevent
from gevent import socket

from gearworker.config import Config, parse_config
from gearworker.counts import JobCounter
from gearworker.errors import ProtocolError
from gearworker.logs import configure_logging
from gearworker.metrics import HubLag
from gearworker.net.connection import replace_descriptor
from gearworker.service.assembly import describe, make_worker, resolve_addresses, running_jobs
from gearworker.service.channel import AnyMessage, Beat, Channel, Drain, LogStacks, Report, ReportRequest, Start
from gearworker.service.stopping import STOP_SIGNALS, Commands, log_stacks, run_until_stopped
from gearworker.task import TaskRegistry
from gearworker.worker.worker import Worker

log = logging.getLogger(__name__)

BEAT_INTERVAL_S: Final = 0.25
STACK_SIGNAL: Final = signal.SIGRTMIN
_BEATS_PER_REPORT: Final = 4

LoadTasks = Callable[[Config, bool], TaskRegistry]


def run_child(channel_fd: int, stack_fd: int, load_tasks: LoadTasks) -> int:
    """Run a worker process; the standard library is patched already.

    Args:
        channel_fd: our end of the channel to the supervisor.
        stack_fd: where a blocked stack is written.
        load_tasks: imports a configuration's task modules; the second argument asks for tracebacks.

    Returns: the process's exit code.

    Raises:
        ConfigError: the configuration or a task module can't be used.

    Switches: all the time.
    """
    for descriptor in (channel_fd, stack_fd):
        os.set_inheritable(descriptor, False)  # no program that a handler starts shall hold them open
    faulthandler.register(STACK_SIGNAL, file=stack_fd, all_threads=False)
    channel = Channel(socket.socket(fileno=channel_fd))
    start = channel.receive()
    if not isinstance(start, Start):
        return 0  # the supervisor ended before it said anything
    config = parse_config(start.config_text, file=start.config_file)
    configure_logging(start.log_level, start.log_format)
    return Child(config, load_tasks(config, start.verbose), start.embedded_address, channel).run()


class Child:
    """The worker of a worker process, and its conversation with the supervisor.

    Args:
        config: what to run.
        registry: the tasks.
        embedded_address: where the supervisor's embedded job server listens, if it has one.
        channel: to the supervisor.
    """

    def __init__(self, config: Config, registry: TaskRegistry, embedded_address: str | None, channel: Channel) -> None:
        addresses = resolve_addresses(config, embedded_address)
        self._grace_s = config.shutdown.grace_s
        self._channel = channel
        self._counter = JobCounter([task.name for task in registry], [str(address) for address in addresses])
        self._worker: Worker = make_worker(config, registry, addresses, [self._counter])
        self._hub_lag = HubLag()
        self._commands = Commands()

    def run(self) -> int:
        """Serve until a signal, the supervisor or its end says otherwise; give the exit code."""
        watchers: list[Any] = [gevent.signal_handler(number, self._commands.put, number) for number in STOP_SIGNALS]
        os.register_at_fork(after_in_child=self._abandon_sockets)
        self._hub_lag.start()
        self._worker.start()
        helpers = [gevent.spawn(self._listen), gevent.spawn(self._beat)]
        log.info("serving in %s", describe(self._worker))
        try:
            return run_until_stopped(self._worker, self._commands, self._grace_s)
        finally:
            self._worker.stop()
            self._send_report(0)
            gevent.killall(helpers)
            for watcher in watchers:
                watcher.cancel()
            self._channel.close()

    def _listen(self) -> None:
        while True:
            try:
                message = self._channel.receive()
            except ProtocolError as error:
                log.error("the supervisor can't be understood: %s", error)
                message = None
            if message is None:
                log.warning("the supervisor has ended; draining")
                self._commands.put(signal.SIGTERM)
                return
            self._obey(message)

    def _obey(self, message: AnyMessage) -> None:
        if isinstance(message, Drain):
            self._commands.put(signal.SIGTERM)
        elif isinstance(message, ReportRequest):
            self._send_report(message.number)
        elif isinstance(message, LogStacks):
            log_stacks(self._worker)

    def _beat(self) -> None:
        beats = 0
        while self._channel.send(Beat(self._worker.ready)):
            if beats % _BEATS_PER_REPORT == 0:
                self._send_report(0)
            beats += 1
            gevent.sleep(BEAT_INTERVAL_S)

    def _send_report(self, number: int) -> None:
        counts = self._counter.snapshot(self._worker, self._hub_lag.take_s() if number else self._hub_lag.worst_s)
        self._channel.send(Report(number, counts, running_jobs(self._worker)))

    def _abandon_sockets(self) -> None:
        """In a child that a handler forked: let go of every socket, or it would keep our connections alive."""
        for link in self._worker.links:
            if link.session is not None:
                link.session.abandon()
        replace_descriptor(self._channel.fileno())
