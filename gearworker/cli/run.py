"""``run``: the worker as a service, in the foreground."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from gearworker.cli.check import verbose_option

if TYPE_CHECKING:
    from gearworker.config import Config


@click.command()
@click.argument("config")
@click.option("--watch", is_flag=True, help="Restart when a source file or CONFIG changes.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="In place of log.level.")
@click.option("--log-format", type=click.Choice(["text", "json"]), help="In place of log.format.")
@verbose_option
def run(config: str, watch: bool, log_level: str | None, log_format: str | None, verbose: bool) -> int:
    """Run the worker that CONFIG describes, until SIGTERM or Ctrl-C.

    It then stops grabbing jobs and gives the running ones shutdown.grace_s seconds to finish.
    """
    if watch:
        from gearworker.cli.watch import watch_and_run

        options = {"--log-level": log_level, "--log-format": log_format, "--verbose": verbose or None}
        arguments = [part for name, value in options.items() if value for part in (name, value) if part is not True]
        return watch_and_run(config, arguments)
    from gearworker.patching import patch_standard_library

    patch_standard_library()

    return _run(config, log_level, log_format, verbose)


def _run(path: str, log_level: str | None, log_format: str | None, verbose: bool) -> int:
    from gearworker.cli.app import load_tasks
    from gearworker.logs import configure_logging
    from gearworker.service.main import run_service
    from gearworker.service.single import serve

    def read() -> tuple[Config, str]:
        return _read_config(path, log_level, log_format)

    config, _ = read()
    if config.processes != 0:
        return run_service(read, verbose=verbose)
    configure_logging(config.log.level, config.log.format)
    return serve(config, load_tasks(config, verbose=verbose))


def _read_config(path: str, log_level: str | None, log_format: str | None) -> tuple[Config, str]:
    """The configuration, with the command line's options in place of its own; and its text."""
    import msgspec

    from gearworker.config import parse_config
    from gearworker.config_source import read_file

    text = read_file(path)
    config = parse_config(text, file=path)
    changes = {name: value for name, value in (("level", log_level), ("format", log_format)) if value}
    return msgspec.structs.replace(config, log=msgspec.structs.replace(config.log, **changes)), text


@click.command(hidden=True)
@click.argument("channel_fd", type=int)
@click.argument("stack_fd", type=int)
def child(channel_fd: int, stack_fd: int) -> int:
    """Be a worker process; the supervisor starts this, and gives the open descriptors."""
    from gearworker.patching import patch_standard_library

    patch_standard_library()

    from gearworker.cli.app import load_tasks
    from gearworker.service.child import run_child

    return run_child(channel_fd, stack_fd, lambda config, verbose: load_tasks(config, verbose=verbose))
