"""``server``: the embedded job server, for development."""

from __future__ import annotations

import click

from gearworker.errors import ConfigError, ServerUnavailable


@click.command()
@click.option("--listen", default="127.0.0.1:4730", show_default=True, help="host:port; port 0 takes a free one.")
def server(listen: str) -> None:
    """Run a job server for development, until SIGTERM or Ctrl-C.

    It listens on loopback addresses only and keeps its queue in memory.
    """
    import signal

    import gevent
    from gevent.event import Event

    from gearworker.jobserver import EmbeddedJobServer
    from gearworker.logs import configure_logging

    configure_logging("info")
    job_server = EmbeddedJobServer(*_parse(listen))
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, stop.set)
    try:
        job_server.start()  # logs where it listens, and that it is for development
    except ServerUnavailable as error:
        raise ConfigError(str(error), key="--listen") from None
    stop.wait()
    job_server.stop()


def _parse(listen: str) -> tuple[str, int]:
    host, colon, port = listen.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port[:6]) > 65535:
        raise ConfigError(f"{listen!r} is no address; write it as host:port", key="--listen")
    return host.removeprefix("[").removesuffix("]"), int(port)
