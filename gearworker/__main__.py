"""``python -m gearworker`` and the ``gearworker`` command."""

import sys


def main() -> None:
    """Run the command line and end the process with its exit code."""
    from gearworker.cli import run_command_line

    sys.exit(run_command_line(sys.argv[1:]))


if __name__ == "__main__":
    main()
