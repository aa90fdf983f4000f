"""The command line: the group of commands, and what becomes of an error.

Command modules import click alone; what a command works with it imports when it runs, which keeps ``--help`` fast and
lets ``run`` patch the standard library before anything else is there.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from gearworker.cli import admin, check, run, server, submit
from gearworker.errors import (
    ConfigError,
    GearmanConnectionError,
    GearmanError,
    InvalidAdminClientState,
    JobServerError,
    JobTimeout,
    PayloadError,
    ProtocolError,
    TaskError,
)
from gearworker.version import __version__

EXIT_DONE, EXIT_FAILED, EXIT_USAGE, EXIT_TIMED_OUT, EXIT_NO_JOB_SERVER = range(5)
EXIT_INTERRUPTED, EXIT_BROKEN_PIPE = 130, 141


class ReaderLeft(Exception):
    """Nobody reads on from stdout."""


class Interrupted(Exception):
    """Ctrl-C."""


class _Commands(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what click would make noise of, or exit code 1 (a failed job), goes past it."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            raise ReaderLeft from None
        except KeyboardInterrupt:
            raise Interrupted from None
        return result


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="gearworker", message="%(prog)s %(version)s")
def cli() -> None:
    """Serve Gearman queues from Python.

    Exit codes: 0 done; 1 the job failed; 2 usage or configuration; 3 timed out; 4 no job server.
    """


for _command in (run.run, run.child, check.check, check.tasks, submit.submit, server.server, *admin.COMMANDS):
    cli.add_command(_command)


def run_command_line(args: list[str]) -> int:
    """Run a command.

    Args:
        args: without the program's name.

    Returns:
        The process's exit code. What went wrong stands on stderr, in one paragraph.
    """
    try:
        result = cli.main(args, prog_name="gearworker", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (Interrupted, KeyboardInterrupt, click.Abort):
        return EXIT_INTERRUPTED
    except ReaderLeft:
        # The interpreter must not try to flush the rest when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except GearmanError as error:
        from gearworker.logs import escape

        click.echo(f"gearworker: {escape(str(error))}", err=True)
        return exit_code(error)
    return result if isinstance(result, int) else EXIT_DONE


def exit_code(error: GearmanError) -> int:
    """The exit code that an error ends the command with."""
    if isinstance(error, JobServerError):
        return EXIT_FAILED
    # Our own bytes that break the protocol are a name that can't be; theirs, that no job server is at this address.
    if isinstance(error, (ConfigError, TaskError, PayloadError, ProtocolError)):
        return EXIT_USAGE
    if isinstance(error, (JobTimeout, InvalidAdminClientState)):
        return EXIT_TIMED_OUT
    return EXIT_NO_JOB_SERVER if isinstance(error, GearmanConnectionError) else EXIT_FAILED
