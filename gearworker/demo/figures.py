"""What the demo's worker counted, read from its /metrics and shown as a table."""

from __future__ import annotations

import time
from collections import defaultdict

from prometheus_client.parser import text_string_to_metric_families
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from gearworker.demo.service import DemoFailed, Service

EXPECTED_JOBS = {
    ("resize", "complete"): 12,
    ("typeset", "complete"): 1,
    ("average", "complete"): 1,
    ("book", "fail"): 1,
    ("divide", "exception"): 1,
}
OUTCOMES = ("complete", "fail", "exception")
COUNT_TIMEOUT_S = 5.0

Figures = dict[str, dict[tuple[str, str], float]]
"""By the sample's name, then by its task and its other label, which is empty where it has none."""


def read_figures(exposition: str) -> Figures:
    """The samples of /metrics that are about a task."""
    figures: Figures = defaultdict(dict)
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            labels = dict(sample.labels)
            task = labels.pop("task", None)
            if task is not None and len(labels) <= 1:
                figures[sample.name][task, "".join(labels.values())] = sample.value
    return figures


def wait_for_figures(service: Service) -> Figures:
    """The figures once all of the demo's jobs are counted; a job is counted a moment after its client has its end.

    Raises:
        DemoFailed: the worker counted other jobs than the demo submitted.
    """
    deadline = time.monotonic() + COUNT_TIMEOUT_S
    while True:
        figures = read_figures(service.get("/metrics"))
        counted = {key: value for key, value in figures["gearworker_jobs_total"].items() if value}
        if counted == EXPECTED_JOBS:
            return figures
        if time.monotonic() > deadline:
            raise DemoFailed(f"/metrics counts the jobs {counted}, and {EXPECTED_JOBS} were submitted")
        time.sleep(0.05)


def print_figures(console: Console, figures: Figures) -> None:
    """Print a line for each task."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("task", no_wrap=True)
    for heading in (*OUTCOMES, "mean ms", "packets", "bytes in", "bytes out"):
        table.add_column(heading, justify="right", no_wrap=True)
    jobs = figures["gearworker_jobs_total"]
    for task in dict.fromkeys(task for task, _ in EXPECTED_JOBS):
        ran = figures["gearworker_job_duration_seconds_count"][task, ""]
        mean_ms = 1000 * figures["gearworker_job_duration_seconds_sum"][task, ""] / ran
        packets = sum(n for (name, _), n in figures["gearworker_job_packets_total"].items() if name == task)
        sizes = figures["gearworker_job_bytes_total"]
        numbers = (
            *(jobs.get((task, outcome), 0) for outcome in OUTCOMES),
            packets,
            sizes.get((task, "in"), 0),
            sizes.get((task, "out"), 0),
        )
        outcomes, others = numbers[: len(OUTCOMES)], numbers[len(OUTCOMES) :]
        table.add_row(task, *(f"{n:.0f}" for n in outcomes), f"{mean_ms:,.1f}", *(f"{n:,.0f}" for n in others))
    console.print(table)
