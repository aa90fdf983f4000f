"""A user's application: its configuration and the modules that register its tasks, with errors that say where."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import traceback

from gearworker.config import Config, load_config
from gearworker.errors import ConfigError, TaskError
from gearworker.task import TaskRegistry, default_registry

_MAX_REASON_CHARS = 500
_OWN_DIRECTORY = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def load_app(path: str, *, verbose: bool = False) -> tuple[Config, TaskRegistry]:
    """Read a configuration and import its task modules, the current directory first on the path.

    Whatever the modules print while they are imported goes to stderr, so that stdout stays the command's.

    Args:
        path: of the configuration file.
        verbose: print the traceback of a module that can't be imported.

    Raises:
        ConfigError: the file can't be used, a module can't be imported, or the tasks don't fit the pools.
    """
    config = load_config(path)
    return config, load_tasks(config, verbose=verbose)


def load_tasks(config: Config, *, verbose: bool = False) -> TaskRegistry:
    """Import a configuration's task modules. Arguments and errors as in ``load_app``."""
    directory = os.getcwd()
    if sys.path[:1] != [directory]:
        sys.path.insert(0, directory)
    default_registry.prefix = config.prefix
    with contextlib.redirect_stdout(sys.stderr):
        for index, module in enumerate(config.tasks):
            _import(config, index, module, verbose)
    if not len(default_registry):
        modules = ", ".join(config.tasks)
        raise config.error("tasks", f"no task is registered by {modules}; decorate a function with @gearworker.task")
    config.assign_pools({task.name: task.pool for task in default_registry})
    return default_registry


def _import(config: Config, index: int, module: str, verbose: bool) -> None:
    try:
        importlib.import_module(module)
    except (Exception, SystemExit) as error:
        if verbose:
            traceback.print_exception(error)
        raise config.error(f"tasks[{index}]", f"can't import {module}: {_reason(error, module)}") from None


def _reason(error: BaseException, module: str) -> str:
    """Why a module can't be imported, and the place in it."""
    if isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}."):
        return f"there is no module {error.name}, neither in {os.getcwd()} nor installed"
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    if len(text) > _MAX_REASON_CHARS:
        text = text[:_MAX_REASON_CHARS] + "..."
    if isinstance(error, TaskError):
        return text  # it names the task's place itself
    name = "" if isinstance(error, ConfigError) else type(error).__name__
    place = _place(error)
    return ": ".join(part for part in (name, text) if part) + (f" ({place})" if place else "")


def _place(error: BaseException) -> str:
    """The innermost place in code that is neither gearworker's nor the import system's, as file:line."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_short(error.filename)}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    own = (frame for frame in reversed(frames) if not frame.filename.startswith(("<frozen", _OWN_DIRECTORY)))
    frame = next((frame for frame in own if os.sep + "importlib" + os.sep not in frame.filename), None)
    return f"{_short(frame.filename)}:{frame.lineno}" if frame else ""


def _short(file: str) -> str:
    here = os.getcwd() + os.sep
    return file.removeprefix(here)
