"""Every error keepwarm raises, as one tree that says whose fault it was.

- KeepwarmError
    - the caller's own code or machine
        - OptionError (also TypeError, ValueError): an option of the decorator is wrong; raised at decoration
        - FunctionNotSerializable: the function holds something that cannot travel
        - FunctionNotLoadable: it travelled, but cannot be loaded there (a module it needs is missing, mostly)
        - ArgumentNotSerializable, ArgumentsNotLoadable: the same for arguments
        - ResultNotLoadable: the result arrived, but this program lacks what is needed to load it
        - TooManyCalls: this program holds more unanswered calls than it may
        - PayloadRefused: an argument or a result is too large, or could not be kept on its way
        - KeyConflict: the key of a detached call belongs to another call
        - UnknownCall: no detached call has this id
        - ResultExpired: the detached call ended so long ago that its result is no longer kept
    - the user's function
        - (the original exception, whose cause is a RemoteTraceback)
        - RemoteError: it raised, and the exception's type cannot be rebuilt here
        - ResultNotSerializable: it returned something that cannot travel
    - EnvironmentBuildError: the environment as asked for cannot be made
        - RequirementsError: no set of packages satisfies the requirements
            - BuildForbidden: one of them has no wheel, and building from source is not allowed
        - IndexUnreachable: the package index did not answer
            - CredentialsRefused: it answered, and refused the credentials
        - EnvironmentIntegrityError: a package's hash is not the locked one
        - PythonMissing: no node has the interpreter
        - PythonMismatch: the interpreter there is another minor version than the caller's
        - NodeDiskFull: no room for it on the node
    - the process that ran the call
        - ProcessDied
            - OutOfMemory
            - CallPoisoned: the call killed its process again and again
    - the cluster
        - NodeLost: the node died or became unreachable, and retries are used up
        - CallLost: nobody knows whether the call ran, and it may run at most once
        - NoFeasibleNode: no node can ever run this
        - ClusterUnreachable, ClusterStartError, ProtocolMismatch, SchedulerRefused
        - InternalError: a bug in keepwarm
    - time and cancel
        - CallTimeout (also TimeoutError)
        - CallCancelled (also concurrent.futures.CancelledError)

Rules: `str(error)` is what happened, then what to do. Errors of a call carry where it happened as plain strings. All of
them survive pickle. What the user's function raised is never wrapped while it can be rebuilt. `keepwarm.failures` turns
failures on the wire into these.
"""

# ruff: noqa: N818  # names say what happened; an Error suffix on most of them would say nothing more

from __future__ import annotations

from concurrent.futures import CancelledError
from typing import ClassVar, NamedTuple

__all__ = [
    "KeepwarmError",
    "OptionError",
    "FunctionNotSerializable",
    "FunctionNotLoadable",
    "ArgumentNotSerializable",
    "ArgumentsNotLoadable",
    "ResultNotLoadable",
    "TooManyCalls",
    "PayloadRefused",
    "KeyConflict",
    "UnknownCall",
    "ResultExpired",
    "RemoteTraceback",
    "RemoteError",
    "ResultNotSerializable",
    "EnvironmentBuildError",
    "RequirementsError",
    "BuildForbidden",
    "IndexUnreachable",
    "CredentialsRefused",
    "EnvironmentIntegrityError",
    "PythonMissing",
    "PythonMismatch",
    "NodeDiskFull",
    "ProcessDied",
    "OutOfMemory",
    "CallPoisoned",
    "NodeLost",
    "CallLost",
    "NoFeasibleNode",
    "ClusterUnreachable",
    "ClusterStartError",
    "ProtocolMismatch",
    "SchedulerRefused",
    "InternalError",
    "CallTimeout",
    "CallCancelled",
    "FailureContext",
]


class FailureContext(NamedTuple):
    """Where a call failed; every field may be empty when it never got that far."""

    function: str = ""
    environment: str = ""
    node: str = ""
    call_id: str = ""

    def sentence(self) -> str:
        """Return one line for people, as "in function main:f, on node n1, call 7"; empty when nothing is known."""
        known = zip(("in function", "environment", "on node", "call"), self, strict=True)
        return ", ".join(f"{label} {value}" for label, value in known if value)


class KeepwarmError(Exception):
    """Root of the tree. `message` says what happened, `remedy` what to do; both are in `str(error)`.

    `function`, `environment`, `node` and `call_id` are empty unless the error belongs to a call; `detail` is the full
    text behind the message (an installer's output, say), shown as a note under the traceback.
    """

    remedy: ClassVar[str] = ""

    def __init__(self, message: str = "", *, context: FailureContext | None = None, detail: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail
        self.function, self.environment, self.node, self.call_id = context or FailureContext()
        if context and context.sentence():
            self.add_note(context.sentence())
        if detail:
            self.add_note(detail)

    def __str__(self) -> str:
        if not self.remedy or self.remedy in self.message:
            return self.message
        return f"{self.message.rstrip('.')}. {self.remedy}" if self.message else self.remedy


# ---------------------------------------------------------------- the caller's own code or machine


class OptionError(KeepwarmError, TypeError, ValueError):
    """An option is unknown, of the wrong type or out of range; the message names it, its value and what is allowed.

    Raised when a function is decorated, never later. It is both a TypeError and a ValueError, so that whichever of the
    two a program expects from a bad argument catches it.
    """


class FunctionNotSerializable(KeepwarmError):
    """The function, its setup, or something they refer to cannot be sent; the message has the path to the culprit."""

    remedy = "Create such objects inside the function, or in its setup."


class FunctionNotLoadable(KeepwarmError):
    """The function arrived but could not be loaded in its environment."""

    remedy = "If a module is missing there, add its package to the requirements."


class ArgumentNotSerializable(KeepwarmError):
    """An argument cannot be sent; the message names it, with the path to the culprit inside it."""

    remedy = "Pass plain data, and create such objects inside the function."


class ArgumentsNotLoadable(KeepwarmError):
    """The arguments arrived but could not be loaded in the function's environment."""

    remedy = "If a module is missing there, add its package to the requirements, or pass plain data."


class ResultNotLoadable(KeepwarmError):
    """The call succeeded, but its result cannot be loaded in this program."""

    remedy = "Install what it needs here, or return plain data."


class TooManyCalls(KeepwarmError):
    """This program holds as many unanswered calls, or as many bytes of them, as it may. Nothing was sent."""

    remedy = "Wait for some results first; .map() does so by itself."


class PayloadRefused(KeepwarmError):
    """An argument, a result or a function was not taken: it is too large, or there was no room to keep it."""

    remedy = (
        "Send less at once, or write it where the function can read it; the scheduler's --payload-max is the limit."
    )


class KeyConflict(KeepwarmError):
    """The key is that of an earlier detached call with another function or other arguments. Nothing was started."""

    remedy = "Give each call a key of its own, and the same call the same key."


class UnknownCall(KeepwarmError):
    """No detached call of this namespace has this id: it was never accepted, or it was forgotten long ago."""

    remedy = "Check the id, and KEEPWARM_ADDRESS: `keepwarm calls list` shows what this cluster has."


class ResultExpired(KeepwarmError):
    """The detached call has ended, but its outcome is no longer kept: its time was over, or somebody forgot it."""

    remedy = "Give it a longer result_ttl, or attach to it sooner."


# ---------------------------------------------------------------- the user's function


class RemoteTraceback(Exception):
    """The traceback as printed where the call ran; the `__cause__` of an exception rebuilt here."""

    def __init__(self, text: str = "") -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n{self.text.rstrip()}"


class RemoteError(KeepwarmError):
    """The function raised an exception that cannot be rebuilt, or must not be raised, in this program.

    You do not get it for exceptions whose class can be imported or travelled by value: those are raised as they are.
    """

    def __init__(
        self,
        message: str = "",
        *,
        type_name: str = "",
        traceback_text: str = "",
        context: FailureContext | None = None,
    ) -> None:
        super().__init__(message, context=context)
        self.type_name = type_name
        self.traceback_text = traceback_text


class ResultNotSerializable(KeepwarmError):
    """The function returned something that cannot be sent back. It ran; its side effects happened."""

    remedy = "Return plain data."


# ---------------------------------------------------------------- the environment


class EnvironmentBuildError(KeepwarmError):
    """The environment cannot be made as asked for. The function did not run."""


class RequirementsError(EnvironmentBuildError):
    """No set of packages satisfies the requirements on this platform and python."""

    remedy = "Loosen or correct the requirements."


class BuildForbidden(RequirementsError):
    """A requirement has no wheel for this platform, and building from source is not allowed."""

    remedy = "Choose a version that has a wheel, or give the wheel as NAME @ URL."


class IndexUnreachable(EnvironmentBuildError):
    """The package index, or a URL among the requirements, did not answer."""

    remedy = "Try again later; if it stays so, check the network of the nodes and the index settings of the cluster."


class CredentialsRefused(IndexUnreachable):
    """The package index refused the cluster's credentials."""

    remedy = "Renew the credentials of this index in the settings of the cluster."


class EnvironmentIntegrityError(EnvironmentBuildError):
    """A downloaded package is not the one that was locked: its hash differs."""

    remedy = "Find out who changed the package before you refresh the lock."


class PythonMissing(EnvironmentBuildError):
    """No node has the interpreter this function needs."""

    remedy = "Install it on a node and restart its agent, or give the agent its path with --python."


class PythonMismatch(EnvironmentBuildError):
    """The environment's Python is another minor version than the caller's, and functions travel as bytecode."""

    remedy = "Use the same minor version on both sides."


class NodeDiskFull(EnvironmentBuildError):
    """The node has no room for the environment, even after removing those not in use."""

    remedy = "Free disk space on the node, or lower the size of its environment store."


# ---------------------------------------------------------------- the process that ran the call


class ProcessDied(KeepwarmError):
    """The process died while it ran the call: os._exit, a crash in native code, or a kill from outside.

    `exit_code` and `signal` (a number) tell which; None is unknown or not applicable.
    """

    remedy = "Retry(crash=N) runs such calls again."

    def __init__(
        self,
        message: str = "",
        *,
        exit_code: int | None = None,
        signal: int | None = None,
        context: FailureContext | None = None,
        detail: str = "",
    ) -> None:
        super().__init__(message, context=context, detail=detail)
        self.exit_code = exit_code
        self.signal = signal


class OutOfMemory(ProcessDied):
    """The kernel killed the process for lack of memory: the node's, or that of a limit around the agent.

    A `MemoryError` that the function raises is no such error: it is raised as itself.
    """

    remedy = "Declare more memory in resources, or use less of it; Retry(out_of_memory=N) runs such calls again."


class CallPoisoned(ProcessDied):
    """The call killed its process so often that it will not be run again."""

    remedy = "Run it with .local() under a debugger."


# ---------------------------------------------------------------- the cluster


class NodeLost(KeepwarmError):
    """The node died or became unreachable while it had the call, and the retries for that are used up."""

    remedy = "The call may have run; if running it twice is harmless, raise Retry(lost_node=N)."


class CallLost(KeepwarmError):
    """Nobody knows whether the call ran, and it was asked to run at most once."""

    remedy = "Look for its side effects before you call again."


class NoFeasibleNode(KeepwarmError):
    """No node that the cluster has, or had lately, can ever run this call."""

    remedy = "Ask for less in resources, or add a node that has it."


class ClusterUnreachable(KeepwarmError):
    """The scheduler does not answer at its address."""

    remedy = "Check the address and that the scheduler runs."


class ClusterStartError(KeepwarmError):
    """The local cluster could not be started."""


class ProtocolMismatch(KeepwarmError):
    """This program and the scheduler have no protocol version in common."""

    remedy = "Install releases at most one minor version apart; the scheduler is upgraded first."


class SchedulerRefused(KeepwarmError):
    """The scheduler refused this program or its request: credentials, role, namespace or quota."""


class InternalError(KeepwarmError):
    """A bug in keepwarm, not in your program."""

    remedy = "This is a bug in keepwarm; please report it with this text."


# ---------------------------------------------------------------- time and cancel


class CallTimeout(KeepwarmError, TimeoutError):
    """One of the call's four timeouts ran out; `which` is "queue", "startup", "run" or "overall".

    Not raised by `future.result(timeout=...)`: that is a plain TimeoutError, and the call goes on.
    """

    def __init__(
        self, message: str = "", *, which: str = "", context: FailureContext | None = None, detail: str = ""
    ) -> None:
        super().__init__(message, context=context, detail=detail)
        self.which = which


class CallCancelled(KeepwarmError, CancelledError):
    """The call was cancelled: by this program, by an operator, or because its program was gone for too long."""
