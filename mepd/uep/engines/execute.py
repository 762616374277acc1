"""Running one task in a worker: the only module that loads the SDK's serializer."""

from __future__ import annotations

import logging
import os
import platform
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import dill
from globus_compute_sdk.errors import MaxResultSizeExceeded
from globus_compute_sdk.serialize import ComputeSerializer
from globus_compute_sdk.version import __version__ as sdk_version

from mepd.errors import WireError
from mepd.uep.engines import walltime
from mepd.wire.message import (
    ACTOR_WORKER,
    EXEC_END,
    EXEC_START,
    Result,
    pack_result,
    transition,
    unpack_task,
)

RESULT_MAX = 10 * 1024 * 1024
"""Bytes of a serialized result: the service's limit."""
ERROR_TEXT_MAX = 256 * 1024
TOO_LARGE = "MaxResultSizeExceeded"
USER_MESSAGE = "An error occurred during the execution of this task"
# It logs the text of a value that it cannot serialize, of whatever size and with whatever the
# text's own code does; the error result tells the reason.
logging.getLogger("globus_compute_sdk.serialize.facade").setLevel(logging.CRITICAL)
_OWN_FILE = __file__
_name = type.__dict__["__name__"].__get__  # which no metaclass has a say in
_now = time.time_ns  # of our own: a task may have put another into the module


@dataclass(frozen=True)
class ExecuteSettings:
    """``folder`` is where tasks run; with ``sandbox``, each in a folder of its own there.

    ``alone`` says that no other task runs in this process, so that its environment may
    name the task.
    """

    endpoint_id: str
    folder: Path
    sandbox: bool
    alone: bool
    allowed_serializers: tuple[str, ...] = ()


def environment_details(endpoint_id: str) -> dict[str, Any]:
    """What the SDK compares with its own side when a task fails (Client, check_version)."""
    return {
        "os": platform.platform(),
        "dill_version": dill.__version__,
        "python_version": platform.python_version(),
        "globus_compute_sdk_version": sdk_version,
        "endpoint_id": endpoint_id,
    }


def _user_part(trace: TracebackType | None) -> TracebackType | None:
    """The traceback below this module's own frames; all of it if nothing is below."""
    below = trace
    while below is not None and below.tb_frame.f_code.co_filename == _OWN_FILE:
        below = below.tb_next
    return below if below is not None else trace


def _shorten(text: str) -> str:
    """At most ERROR_TEXT_MAX characters, encodable as UTF-8."""
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    if len(text) <= ERROR_TEXT_MAX:
        return text
    half = ERROR_TEXT_MAX // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters left out ...]\n{text[-half:]}"


def describe(error: BaseException, seconds: float = 0.0) -> tuple[str, str, str]:
    """``data``, code and message of an error result, with the codes of the peer's.

    ``seconds`` is how long the error's own code may take for its text; 0 for no limit.
    """
    try:
        with walltime.limit(seconds):
            return _described(error)
    except BaseException as e:  # a hostile __str__, __repr__ or class of the user's exception
        text = f"{_name(type(error))} (its text cannot be had: {_name(type(e))})"
        return text, "RemoteExecutionError", USER_MESSAGE


def _described(error: BaseException) -> tuple[str, str, str]:
    if type(error) in (MaxResultSizeExceeded, WireError):
        code = "CouldNotExecuteUserTaskError" if type(error) is WireError else TOO_LARGE
        text = _shorten(str(error))
        return f"{code}: {text}", code, f"remote error: {text}"
    lines = traceback.format_exception(type(error), error, _user_part(error.__traceback__))
    return _shorten("".join(lines)), "RemoteExecutionError", USER_MESSAGE


class Executor:
    """Runs packed tasks and returns packed results; never raises for what a task does."""

    def __init__(self, settings: ExecuteSettings) -> None:
        self._settings = settings
        self._serializer = ComputeSerializer(
            allowed_deserializer_types=settings.allowed_serializers or None
        )
        self.details = environment_details(settings.endpoint_id)
        settings.folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def run(self, task_id: str, body: bytes, serializers: list[str]) -> bytes:
        start = transition(EXEC_START, ACTOR_WORKER, _now())
        code: str | None = None
        message: str | None = None
        error: BaseException | None = None
        seconds = 0.0
        try:
            seconds = walltime.configured()
            self._enter(task_id)
            with walltime.limit(seconds):
                data = self._call(body, serializers)
        except BaseException as e:
            error = e
        if error is not None:  # here, where no exception raised within has it as its context
            data, code, message = describe(error, seconds)
            # This frame is in its traceback: a cycle, with all that the function had held.
            error = None
        end = transition(EXEC_END, ACTOR_WORKER, _now())
        return pack_result(Result(task_id, data, self.details, code, message, (start, end)))

    def _call(self, body: bytes, serializers: list[str]) -> str:
        function: Callable[..., Any]
        task = unpack_task(body)
        function, args, kwargs = self._serializer.unpack_and_deserialize(task.task_buffer)
        value = function(*args, **kwargs)
        data: str = ComputeSerializer.serialize_from_list(value, serializers)
        if len(data) > RESULT_MAX:
            raise MaxResultSizeExceeded(len(data), RESULT_MAX)
        return data

    def _enter(self, task_id: str) -> None:
        """Working folder and environment of a task, which an earlier one may have changed."""
        folder = self._settings.folder
        if self._settings.alone:
            os.environ["GC_TASK_UUID"] = task_id
            if self._settings.sandbox:
                folder = folder / task_id
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                os.environ["GC_TASK_SANDBOX_DIR"] = str(folder)
        try:
            os.chdir(folder)
        except FileNotFoundError:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.chdir(folder)
