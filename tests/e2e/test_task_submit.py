"""A decorated task submits itself, with its encoder on both sides, from a program that never heard of gevent."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.servers import Gearmand
from support.workers import WorkerProcess

pytestmark = pytest.mark.gearmand

TASKS = """
    import msgspec
    from gearworker import FailJob, task

    class Order(msgspec.Struct):
        item: str
        count: int = 1

    @task(None, payload=Order)
    def order(job):
        if not job.data.count:
            raise FailJob("nothing ordered")
        return {"text": f"{job.data.count} x {job.data.item}"}

    @task(None, encoder="json")
    def square(job):
        return job.data ** 2
"""

PROGRAM = """
from gearworker import JobFailed
from tasks_under_test import Order, order, square
print(order.submit(Order("tea", 3)).result_or_raise())
print(order.submit(Order("tea", 0)).state)
print(list(square.map(range(5), concurrency=2)))
print(square.submit_background(7).state)
try:
    order.submit({"item": 5}).result_or_raise()
except JobFailed as error:
    print(error)
"""


def test_submit_submit_background_and_map(gearmand: Gearmand, start_worker: Callable[..., WorkerProcess]) -> None:
    worker = start_worker(gearmand, tasks=TASKS)
    root = str(Path(__file__).parents[2])
    environ = {**os.environ, "PYTHONPATH": root, "GEARWORKER_JOB_SERVERS": gearmand.address}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=worker.directory, env=environ, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    result, failed, squares, background, refused = done.stdout.splitlines()
    assert result == "{'text': '3 x tea'}"
    assert failed == "FAILED"
    assert squares == "[0, 1, 4, 9, 16]"
    assert background == "CREATED"
    assert "PayloadError: the payload is not the json expected: Expected `str`, got `int`" in refused
