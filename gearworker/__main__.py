"""``python -m gearworker`` and the ``gearworker`` command."""

import os
import sys


def main() -> None:
    """Run the command line and end the process with its exit code."""
    from gearworker.cli import EXIT_INTERRUPTED, run_command_line

    code = run_command_line(sys.argv[1:])
    if code == EXIT_INTERRUPTED:
        # What was interrupted, such as a client's thread, is in no state to be taken down in order.
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
