"""From a failure on the wire to the exception that the caller gets.

Owns the table of failure kinds, which is all that this program knows of what nodes and scheduler may say. Rules:
`rebuild_failure` never raises, whatever it is given; what the user's function raised is raised as itself where that is
possible and safe; a kind that this release does not know is an InternalError that quotes it.
"""

from __future__ import annotations

import re
from typing import Any, Final

from keepwarm.errors import (
    ArgumentsNotLoadable,
    BuildForbidden,
    CallCancelled,
    CallLost,
    CallPoisoned,
    CallTimeout,
    CredentialsRefused,
    EnvironmentBuildError,
    EnvironmentIntegrityError,
    FailureContext,
    FunctionNotLoadable,
    IndexUnreachable,
    InternalError,
    KeepwarmError,
    NodeDiskFull,
    NodeLost,
    NoFeasibleNode,
    OutOfMemory,
    PayloadRefused,
    ProcessDied,
    PythonMismatch,
    PythonMissing,
    RemoteError,
    RemoteTraceback,
    RequirementsError,
    ResultNotSerializable,
)
from keepwarm.interruptions import is_the_programs
from keepwarm.provenance import is_own_module, is_user_module
from keepwarm_wire.messages import DetachedOutcome, Outcome, Status

__all__ = ["FAILURE_KINDS", "error_of", "rebuild_failure"]

FAILURE_KINDS: Final[dict[str, type[KeepwarmError]]] = {
    # Raised as themselves where that is possible; this is the class for where it is not.
    "user_exception": RemoteError,
    "setup_failed": RemoteError,
    "function_unloadable": FunctionNotLoadable,
    "arguments_unloadable": ArgumentsNotLoadable,
    "result_unpicklable": ResultNotSerializable,
    "payload_refused": PayloadRefused,
    "payload_damaged": PayloadRefused,
    "payload_not_stored": PayloadRefused,
    "result_not_stored": PayloadRefused,
    "python_mismatch": PythonMismatch,
    "requirements_unsatisfiable": RequirementsError,
    "requirements_malformed": RequirementsError,
    "build_forbidden": BuildForbidden,
    "index_unreachable": IndexUnreachable,
    "credentials_refused": CredentialsRefused,
    "integrity": EnvironmentIntegrityError,
    "python_missing": PythonMissing,
    "disk_full": NodeDiskFull,
    "timed_out": EnvironmentBuildError,
    "start_failed": EnvironmentBuildError,
    "queue_timeout": CallTimeout,
    "startup_timeout": CallTimeout,
    "run_timeout": CallTimeout,
    "overall_timeout": CallTimeout,
    "process_died": ProcessDied,
    "out_of_memory": OutOfMemory,
    "poisoned": CallPoisoned,
    "node_lost": NodeLost,
    "node_stopping": NodeLost,
    "lost": CallLost,
    "in_doubt": CallLost,
    "not_lent": InternalError,
    "no_feasible_node": NoFeasibleNode,
    "cancelled": CallCancelled,
    "internal": InternalError,
    "lock_failed": InternalError,
    "function_not_loaded": InternalError,
}

_RAISED_BY_USER_CODE: Final = frozenset({"user_exception", "setup_failed"})
_EXIT: Final = re.compile(r"(exit_code|signal)=(\w{1,20})(?:\n|$)", re.ASCII)
_TYPE_NAME: Final = re.compile(r"[A-Za-z_][\w.]*", re.ASCII)


def rebuild_failure(
    kind: str, message: str, detail: str, exception_bytes: bytes, context: FailureContext
) -> BaseException:
    """Return the exception for a failure of a call; never raise.

    `detail` is the remote traceback for what user code raised, and the full text behind the message for everything else
    (for a dead process its first line may be "exit_code=N" or "signal=NAME"). Kinds this release does not know become
    InternalError.
    """
    if kind in _RAISED_BY_USER_CODE:
        return _user_exception(kind, message, detail, exception_bytes, context)
    error_class = FAILURE_KINDS.get(kind)
    if error_class is None:
        return InternalError(f"failure of unknown kind {kind!r}: {message}", context=context, detail=detail)
    fields: dict[str, Any] = {"context": context}
    if issubclass(error_class, CallTimeout):
        fields["which"] = kind.removesuffix("_timeout")
    elif issubclass(error_class, ProcessDied) and (told := _EXIT.match(detail)):
        fields[told[1]] = _exit_number(told[2])
        detail = detail[told.end() :]
    return error_class(message, detail=detail, **fields)


def error_of(outcome: Outcome | DetachedOutcome, function: str, call_id: str) -> BaseException:
    """Return the exception for a call that did not succeed; never raise."""
    failure, report = outcome.failure, outcome.report
    context = FailureContext(function, *((report.environment_id, report.node) if report else ("", "")), call_id)
    if failure is not None:
        return rebuild_failure(failure.kind, failure.message, failure.detail, failure.exception, context)
    name = Status.NAMES[outcome.status] if outcome.status < len(Status.NAMES) else f"status {outcome.status}"
    return rebuild_failure(_KIND_OF_STATUS.get(name, "internal"), f"the call ended as {name}", "", b"", context)


_KIND_OF_STATUS: Final = {
    "cancelled": "cancelled",
    "timed out": "overall_timeout",
    "lost": "lost",
    "poisoned": "poisoned",
}


def _exit_number(text: str) -> int | None:
    """An exit code, or the number of a signal by its name; None for a signal that this system does not have."""
    if text.isdecimal():
        return int(text)
    import signal

    number = getattr(signal, text, None)
    return int(number) if isinstance(number, signal.Signals) else None


def _advice(module_name: str | None) -> str:
    if module_name is not None and is_own_module(module_name):
        return "keepwarm is not there where functions run: import it outside of the function"
    if module_name is not None and is_user_module(module_name):
        return f"{module_name!r} is a module of yours: import it outside of the function, and it travels with it"
    return f"if {module_name!r} comes with a package, add that to the function's requirements"


def _user_exception(
    kind: str, message: str, traceback_text: str, exception_bytes: bytes, context: FailureContext
) -> BaseException:
    original, trouble = _load_exception(exception_bytes)
    if original is not None:
        try:
            original.__cause__ = RemoteTraceback(traceback_text)
            original.add_note(_note(kind, context))
            if isinstance(original, ModuleNotFoundError):
                original.add_note(_advice(original.name))
        except Exception as error:  # an exception class may refuse attributes
            trouble = f"its exception cannot be marked with where it came from ({type(error).__name__})"
        else:
            return original
    last_line = traceback_text.rstrip().rpartition("\n")[2] or message
    type_name = _TYPE_NAME.match(last_line)
    failure = RemoteError(
        f"{message.removesuffix(': ') or last_line or 'the function raised an exception'} ({trouble})",
        type_name=type_name.group() if type_name else "",
        traceback_text=traceback_text,
    )
    failure.function, failure.environment, failure.node, failure.call_id = context
    failure.__cause__ = RemoteTraceback(traceback_text)
    failure.add_note(_note(kind, context))
    return failure


def _load_exception(exception_bytes: bytes) -> tuple[BaseException | None, str]:
    """Return the exception, or None and why there is none."""
    if not exception_bytes:
        return None, "the exception itself could not be sent"
    try:
        from keepwarm.pickling import loads_result

        exception = loads_result(exception_bytes)
    except BaseException as error:  # whatever a foreign class does while it is rebuilt
        if is_the_programs(error):
            raise
        return None, f"its exception cannot be rebuilt here: {type(error).__name__}: {error}"
    if not isinstance(exception, BaseException):
        return None, f"what was sent as its exception is a {type(exception).__name__}"
    # SystemExit or KeyboardInterrupt would end the caller's program, asyncio.CancelledError its task, and StopIteration
    # the caller's generator, all silently: none of that is what happened.
    if not isinstance(exception, Exception) or isinstance(exception, StopIteration | StopAsyncIteration):
        return None, f"{type(exception).__name__} is not raised in the caller's program"
    return exception, ""


def _note(kind: str, context: FailureContext) -> str:
    stage = "raised by its setup" if kind == "setup_failed" else "raised remotely"
    return f"{stage} {context.sentence()}".rstrip()
