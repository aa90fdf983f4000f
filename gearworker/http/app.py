"""The endpoint as a WSGI application: GET and HEAD only, everything escaped, nothing of the environment shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import monotonic, time
from typing import Any, NamedTuple

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from gearworker.http.page import render_page

_TEXT = "text/plain; charset=utf-8"
_HTML = "text/html; charset=utf-8"
_JSON = "application/json"


class RunningJob(NamedTuple):
    """A job that runs now.

    ``handle`` is text that UTF-8 can carry; ``started_at`` is of ``time.monotonic()``; ``progress`` is the last
    (numerator, denominator), None before the first.
    """

    pool: str
    task: str
    handle: str
    started_at: float
    attempt: int
    progress: tuple[int, int] | None


@dataclass(frozen=True)
class Sources:
    """Where the endpoint's answers come from.

    Args:
        registry: the metrics.
        alive: whether the process does its work; False asks whoever watches it for a restart.
        ready: whether it takes jobs now.
        running_jobs: what runs now.
    """

    registry: CollectorRegistry
    alive: Callable[[], bool]
    ready: Callable[[], bool]
    running_jobs: Callable[[], list[RunningJob]]


class _Answer(NamedTuple):
    status: str
    content_type: str
    body: bytes


class EndpointApp:
    """The WSGI application.

    Args:
        sources: where the answers come from.
    """

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._routes: dict[str, Callable[[str], _Answer]] = {
            "/": self._page,
            "/metrics": self._metrics,
            "/livez": self._livez,
            "/healthz": self._livez,
            "/readyz": self._readyz,
            "/jobs": self._jobs,
        }

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        method, accept = environ["REQUEST_METHOD"], environ.get("HTTP_ACCEPT", "")
        answer = self._answer(method, environ.get("PATH_INFO", "/"), accept)
        headers = [
            ("Content-Type", answer.content_type),
            ("Content-Length", str(len(answer.body))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            ("Connection", "close"),
        ]
        if answer.status.startswith("405"):
            headers.append(("Allow", "GET, HEAD"))
        start_response(answer.status, headers)
        return [] if method == "HEAD" else [answer.body]

    def _answer(self, method: str, path: str, accept: str) -> _Answer:
        route = self._routes.get(path)
        if method not in ("GET", "HEAD"):
            return _Answer("405 Method Not Allowed", _TEXT, b"only GET and HEAD are served here\n")
        if route is None:
            return _Answer("404 Not Found", _TEXT, b"there are /metrics, /livez, /readyz, /jobs and /\n")
        return route(accept)

    def _metrics(self, accept: str) -> _Answer:
        encode, content_type = choose_encoder(accept)
        return _Answer("200 OK", content_type, encode(self._sources.registry))

    def _livez(self, accept: str) -> _Answer:
        return _verdict(self._sources.alive(), "alive", "not alive")

    def _readyz(self, accept: str) -> _Answer:
        return _verdict(self._sources.ready(), "ready", "not ready")

    def _jobs(self, accept: str) -> _Answer:
        return _Answer("200 OK", _JSON, msgspec.json.encode({"jobs": self._job_rows()}) + b"\n")

    def _page(self, accept: str) -> _Answer:
        body = render_page(alive=self._sources.alive(), ready=self._sources.ready(), jobs=self._job_rows())
        return _Answer("200 OK", _HTML, body.encode())

    def _job_rows(self) -> list[dict[str, Any]]:
        now, wall = monotonic(), time()
        return [_job_row(job, now, wall) for job in sorted(self._sources.running_jobs(), key=lambda j: j.started_at)]


def _job_row(job: RunningJob, now: float, wall: float) -> dict[str, Any]:
    running_s = max(0.0, now - job.started_at)
    progress = None if job.progress is None else {"numerator": job.progress[0], "denominator": job.progress[1]}
    return {
        "task": job.task,
        "handle": job.handle,
        "pool": job.pool,
        "since": round(wall - running_s, 3),
        "running_s": round(running_s, 3),
        "attempt": job.attempt,
        "progress": progress,
    }


def _verdict(good: bool, yes: str, no: str) -> _Answer:
    return (
        _Answer("200 OK", _TEXT, f"{yes}\n".encode())
        if good
        else _Answer("503 Service Unavailable", _TEXT, f"{no}\n".encode())
    )
