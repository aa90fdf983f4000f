"""``run``: the worker as a service, in the foreground."""

from __future__ import annotations

import click

from gearworker.cli.check import verbose_option


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
    from gevent import monkey

    monkey.patch_all()

    return _serve(config, log_level, log_format, verbose)


def _serve(path: str, log_level: str | None, log_format: str | None, verbose: bool) -> int:
    import msgspec

    from gearworker.child import serve
    from gearworker.cli.app import load_tasks
    from gearworker.config import load_config
    from gearworker.logs import configure_logging

    config = load_config(path)
    changes = {name: value for name, value in (("level", log_level), ("format", log_format)) if value}
    config = msgspec.structs.replace(config, log=msgspec.structs.replace(config.log, **changes))
    configure_logging(config.log.level, config.log.format)
    return serve(config, load_tasks(config, verbose=verbose))
