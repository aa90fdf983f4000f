"""The endpoint as a WSGI callable: routes, methods, content, and what never gets through unescaped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from time import monotonic
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from gearworker.http.app import EndpointApp, RunningJob, Sources


class OneCounter(Collector):
    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily("things", "Things", labels=["name"])
        family.add_metric(["a"], 3)
        yield family


class Client:
    def __init__(self, *, alive: bool = True, ready: bool = True, jobs: list[RunningJob] | None = None) -> None:
        registry = CollectorRegistry()
        registry.register(OneCounter())
        self.app = EndpointApp(Sources(registry, lambda: alive, lambda: ready, lambda: jobs or []))

    def ask(self, path: str, method: str = "GET", accept: str = "") -> tuple[str, dict[str, str], bytes]:
        answered = list[Any]()
        body = b"".join(
            self.app(
                {"REQUEST_METHOD": method, "PATH_INFO": path, "HTTP_ACCEPT": accept},
                lambda status, headers: answered.extend((status, dict(headers))),
            )
        )
        return answered[0], answered[1], body


def running(**fields: Any) -> RunningJob:
    made: dict[str, Any] = {
        "pool": "p", "task": "t", "handle": "H:1", "started_at": monotonic() - 5, "attempt": 1, "progress": None,
    }  # fmt: skip
    return RunningJob(**{**made, **fields})


@pytest.mark.parametrize(
    ("path", "good", "bad"),
    [
        ("/livez", b"alive\n", b"not alive\n"),
        ("/healthz", b"alive\n", b"not alive\n"),
        ("/readyz", b"ready\n", b"not ready\n"),
    ],
)
def test_health_says_yes_with_200_and_no_with_503(path: str, good: bytes, bad: bytes) -> None:
    status, headers, body = Client().ask(path)
    assert (status, body, headers["Content-Type"]) == ("200 OK", good, "text/plain; charset=utf-8")
    assert Client(alive=False, ready=False).ask(path)[::2] == ("503 Service Unavailable", bad)


def test_liveness_and_readiness_are_asked_apart() -> None:
    assert Client(alive=True, ready=False).ask("/livez")[0] == "200 OK"
    assert Client(alive=False, ready=True).ask("/readyz")[0] == "200 OK"


@pytest.mark.parametrize("path", ["/", "/metrics", "/livez", "/healthz", "/readyz", "/jobs"])
def test_head_is_get_without_the_body(path: str) -> None:
    status, headers, body = Client().ask(path, "HEAD")
    assert (status, body) == ("200 OK", b"")
    assert headers["Content-Length"] == Client().ask(path)[1]["Content-Length"]
    assert int(headers["Content-Length"]) > 0


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "get"])
@pytest.mark.parametrize("path", ["/metrics", "/nowhere"])
def test_other_methods_are_not_allowed(method: str, path: str) -> None:
    status, headers, _ = Client().ask(path, method)
    assert status == "405 Method Not Allowed"
    assert headers["Allow"] == "GET, HEAD"


@pytest.mark.parametrize("path", ["/nowhere", "/metrics/", "/../etc/passwd", "", "/<script>"])
def test_other_paths_are_not_found_and_not_echoed(path: str) -> None:
    status, _, body = Client().ask(path)
    assert status == "404 Not Found"
    assert b"script" not in body
    assert b"/metrics" in body


def test_every_answer_is_fresh_whole_and_the_last_of_its_connection() -> None:
    for path in ("/", "/metrics", "/jobs", "/nowhere"):
        _, headers, body = Client().ask(path)
        assert headers["Content-Length"] == str(len(body))
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Connection"] == "close"
        assert "Allow" not in headers


def test_metrics_come_in_the_format_that_is_asked_for() -> None:
    _, headers, body = Client().ask("/metrics")
    assert headers["Content-Type"].startswith("text/plain; version=")
    assert b'things_total{name="a"} 3.0' in body
    assert b"# EOF" not in body
    _, headers, body = Client().ask("/metrics", accept="application/openmetrics-text; version=1.0.0")
    assert headers["Content-Type"].startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


def test_jobs_are_listed_oldest_first() -> None:
    jobs = [
        running(handle="H:young", started_at=monotonic() - 1, progress=(1, 4), attempt=2),
        running(handle="H:old", started_at=monotonic() - 60),
        running(handle="H:next", started_at=monotonic() + 5),
    ]
    _, headers, body = Client(jobs=jobs).ask("/jobs")
    assert headers["Content-Type"] == "application/json"
    old, young, early = json.loads(body)["jobs"]
    assert set(old) == {"task", "handle", "pool", "since", "running_s", "attempt", "progress"}
    assert (old["handle"], old["progress"]) == ("H:old", None)
    assert 60 <= old["running_s"] < 70
    assert (young["progress"], young["attempt"]) == ({"numerator": 1, "denominator": 4}, 2)
    assert old["since"] < young["since"]
    assert (early["handle"], early["running_s"]) == ("H:next", 0)


def test_no_job_is_an_empty_list() -> None:
    assert json.loads(Client().ask("/jobs")[2]) == {"jobs": []}


def test_the_page_escapes_whatever_a_job_is_called() -> None:
    evil = '<script>alert("1")</script>'
    _, headers, body = Client(jobs=[running(task=evil, handle=evil, pool=evil)]).ask("/")
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert b"<script" not in body
    assert body.count(b"&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;") == 3
