"""gearworker.compat: python-gearman's names, where it had them, with its defaults."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import pytest

import gearworker
import gearworker.compat as gearman

NAMES = {
    "client": ["GearmanClient"],
    "worker": ["GearmanWorker"],
    "admin_client": ["GearmanAdminClient"],
    "connection_manager": ["DataEncoder"],
    "job": ["GearmanJob", "GearmanJobRequest"],
}
CONSTANTS = {
    "PRIORITY_NONE": None, "PRIORITY_LOW": "LOW", "PRIORITY_HIGH": "HIGH", "JOB_UNKNOWN": "UNKNOWN",
    "JOB_PENDING": "PENDING", "JOB_CREATED": "CREATED", "JOB_FAILED": "FAILED", "JOB_COMPLETE": "COMPLETE",
}  # fmt: skip
ERRORS = [
    "ConnectionError", "ServerUnavailable", "ProtocolError", "UnknownCommandError", "ExceededConnectionAttempts",
    "InvalidClientState", "InvalidWorkerState", "InvalidAdminClientState",
]  # fmt: skip
DEFAULTS: dict[Any, dict[str, Any]] = {
    gearman.GearmanClient: {"host_list": None, "random_unique_bytes": 16},
    gearman.GearmanClient.submit_job: {
        "task": ..., "data": ..., "unique": None, "priority": None, "background": False, "wait_until_complete": True,
        "max_retries": 0, "poll_timeout": None,
    },
    gearman.GearmanClient.submit_multiple_jobs: {
        "jobs": ..., "background": False, "wait_until_complete": True, "max_retries": 0, "poll_timeout": None,
    },
    gearman.GearmanClient.submit_multiple_requests: {
        "requests": ..., "wait_until_complete": True, "poll_timeout": None,
    },
    gearman.GearmanClient.wait_until_jobs_accepted: {"requests": ..., "poll_timeout": None},
    gearman.GearmanClient.wait_until_jobs_completed: {"requests": ..., "poll_timeout": None},
    gearman.GearmanClient.get_job_status: {"request": ..., "poll_timeout": None},
    gearman.GearmanClient.get_job_statuses: {"requests": ..., "poll_timeout": None},
    gearman.GearmanClient.wait_until_job_statuses_received: {"requests": ..., "poll_timeout": None},
    gearman.GearmanJob: {"connection": ..., "handle": ..., "task": ..., "unique": ..., "data": ...},
    gearman.GearmanJobRequest: {
        "gearman_job": ..., "initial_priority": None, "background": False, "max_attempts": 1,
    },
    gearman.GearmanWorker: {"host_list": None},
    gearman.GearmanWorker.register_task: {"task": ..., "callback_function": ...},
    gearman.GearmanWorker.unregister_task: {"task": ...},
    gearman.GearmanWorker.set_client_id: {"client_id": ...},
    gearman.GearmanWorker.work: {"poll_timeout": 60.0},
    gearman.GearmanWorker.shutdown: {},
    gearman.GearmanWorker.send_job_status: {
        "current_job": ..., "numerator": ..., "denominator": ..., "poll_timeout": None,
    },
    gearman.GearmanWorker.send_job_complete: {"current_job": ..., "data": ..., "poll_timeout": None},
    gearman.GearmanWorker.send_job_data: {"current_job": ..., "data": ..., "poll_timeout": None},
    gearman.GearmanWorker.send_job_warning: {"current_job": ..., "data": ..., "poll_timeout": None},
    gearman.GearmanWorker.send_job_exception: {"current_job": ..., "data": ..., "poll_timeout": None},
    gearman.GearmanWorker.send_job_failure: {"current_job": ..., "poll_timeout": None},
    gearman.GearmanWorker.on_job_execute: {"current_job": ...},
    gearman.GearmanWorker.on_job_exception: {"current_job": ..., "exc_info": ...},
    gearman.GearmanWorker.on_job_complete: {"current_job": ..., "job_result": ...},
    gearman.GearmanWorker.after_poll: {"any_activity": ...},
    gearman.GearmanWorker.after_job: {},
    gearman.GearmanAdminClient: {"host_list": None, "poll_timeout": 10.0},
    gearman.GearmanAdminClient.send_shutdown: {"graceful": True},
}  # fmt: skip


@pytest.mark.parametrize("module", NAMES)
def test_a_class_is_where_python_gearman_had_it_and_at_the_top(module: str) -> None:
    imported = importlib.import_module(f"gearworker.compat.{module}")
    assert getattr(gearman, module) is imported
    for name in NAMES[module]:
        assert getattr(imported, name) is getattr(gearman, name) is getattr(gearworker, name)
        assert name in imported.__all__


def test_the_constants_have_their_values() -> None:
    for name, value in CONSTANTS.items():
        assert getattr(gearman, name) == getattr(gearman.constants, name) == value
    assert gearman.constants.DEFAULT_GEARMAN_PORT == 4730
    assert set(gearman.constants.__all__) == {*CONSTANTS, "DEFAULT_GEARMAN_PORT"}


def test_the_errors_are_what_the_rest_raises() -> None:
    assert set(gearman.errors.__all__) == {*ERRORS, "GearmanError"}
    assert all(issubclass(getattr(gearman.errors, name), gearman.errors.GearmanError) for name in ERRORS)
    assert gearman.errors.ServerUnavailable is gearworker.ServerUnavailable
    assert issubclass(gearworker.ConnectionLost, gearman.errors.ConnectionError)
    assert gearman.errors.ConnectionError is not ConnectionError


@pytest.mark.parametrize("call", DEFAULTS, ids=lambda call: call.__qualname__)
def test_arguments_stand_in_python_gearmans_order_with_its_defaults(call: Any) -> None:
    parameters = [
        parameter for parameter in inspect.signature(call).parameters.values()
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD and parameter.name != "self"
    ]  # fmt: skip
    found = {
        parameter.name: ... if parameter.default is parameter.empty else parameter.default for parameter in parameters
    }
    assert list(found.items()) == list(DEFAULTS[call].items())
    keywords = [p for p in inspect.signature(call).parameters.values() if p.kind is p.KEYWORD_ONLY]
    assert all(parameter.default is not parameter.empty for parameter in keywords)


def test_everything_public_is_there() -> None:
    assert all(hasattr(gearman, name) for name in gearman.__all__)
    assert len(set(gearman.__all__)) == len(gearman.__all__)
