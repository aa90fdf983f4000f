"""Runs the embedded job server as a process: ``embedded_runner.py PORT``; each line on stdin empties it.

It ends when stdin does, so it can't outlive the test that started it.
"""

from __future__ import annotations

import sys

from gevent.fileobject import FileObject

from gearworker.jobserver import EmbeddedJobServer


def main() -> None:
    """Serve until stdin ends."""
    server = EmbeddedJobServer(port=int(sys.argv[1]))
    server.start()
    for _ in FileObject(sys.stdin.fileno(), "rb"):
        server.stop()
        server.start()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
    server.stop()


if __name__ == "__main__":
    main()
