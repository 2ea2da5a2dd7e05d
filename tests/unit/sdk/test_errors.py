"""The error tree: whose fault, what to do, where it happened; and how failures of the wire become exceptions."""

from __future__ import annotations

import concurrent.futures
import pickle
import traceback

import cloudpickle
import pytest

import keepwarm
from keepwarm import errors
from keepwarm.errors import FailureContext, KeepwarmError, RemoteError, RemoteTraceback
from keepwarm.failures import FAILURE_KINDS, rebuild_failure

WHERE = FailureContext("main:f", "3fa9", "n1", "7")
KINDS = (
    "user_exception setup_failed python_mismatch function_unloadable arguments_unloadable result_unpicklable "
    "requirements_unsatisfiable requirements_malformed index_unreachable credentials_refused integrity python_missing "
    "disk_full build_forbidden startup_timeout process_died out_of_memory node_lost queue_timeout run_timeout "
    "overall_timeout cancelled lost in_doubt poisoned no_feasible_node internal "
    "payload_refused payload_damaged payload_not_stored result_not_stored timed_out start_failed node_stopping "
    "lock_failed function_not_loaded not_lent"
)
TREE = [getattr(errors, name) for name in errors.__all__ if isinstance(getattr(errors, name), type)]
ERRORS = [kind for kind in TREE if issubclass(kind, KeepwarmError)]


def test_every_kind_on_the_wire_has_a_class() -> None:
    """The table covers the agreed kinds, exactly."""
    assert set(FAILURE_KINDS) == set(KINDS.split())


def test_every_error_is_public_documented_and_in_the_drawn_tree() -> None:
    """No class is missing from the package, from the tree in the module docstring, or without a docstring."""
    for kind in [*ERRORS, RemoteTraceback]:
        assert getattr(keepwarm, kind.__name__) is kind
        assert kind.__name__ in (errors.__doc__ or "")
        assert kind.__doc__


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_errors_survive_pickle(kind: type[KeepwarmError]) -> None:
    """Message, place, detail and notes are the same on the other side."""
    error = kind("it broke", context=WHERE)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert str(copy) == str(error)
    assert (copy.function, copy.environment, copy.node, copy.call_id) == tuple(WHERE)
    assert copy.__notes__ == ["in function main:f, environment 3fa9, on node n1, call 7"]


def test_text_is_what_happened_then_what_to_do() -> None:
    """str() of an error is whole sentences, without a doubled full stop; without a remedy it is the message alone."""
    assert str(errors.RequirementsError("no numpy==99.")) == "no numpy==99. Loosen or correct the requirements."
    assert str(errors.RequirementsError("no numpy==99")) == "no numpy==99. Loosen or correct the requirements."
    assert str(errors.CallCancelled("by an operator")) == "by an operator"
    assert str(errors.OutOfMemory()).startswith("Declare more memory")


def test_ordinary_except_clauses_catch() -> None:
    """Where Python has a word for it, the error is that too."""
    assert issubclass(errors.OptionError, TypeError)
    assert issubclass(errors.OptionError, ValueError)
    assert issubclass(errors.CallTimeout, TimeoutError)
    assert issubclass(errors.CallCancelled, concurrent.futures.CancelledError)


@pytest.mark.parametrize("kind", [name for name in KINDS.split() if name not in ("user_exception", "setup_failed")])
def test_failures_of_keepwarm(kind: str) -> None:
    """Each kind gives its class, with the message, the detail as a note, and the place."""
    error = rebuild_failure(kind, "it broke", "line one\nline two", b"", WHERE)
    assert type(error) is FAILURE_KINDS[kind]
    assert isinstance(error, KeepwarmError)
    assert str(error).startswith("it broke")
    assert error.detail == "line one\nline two"
    assert error.node == "n1"
    assert "line two" in "".join(traceback.format_exception(error))


@pytest.mark.parametrize("which", ["queue", "startup", "run", "overall"])
def test_timeouts_say_which(which: str) -> None:
    """The field tells the four timeouts apart."""
    error = rebuild_failure(f"{which}_timeout", "over", "", b"", WHERE)
    assert isinstance(error, errors.CallTimeout)
    assert error.which == which


def test_dead_processes_say_how() -> None:
    """Exit code and signal come out of the detail; without them they are unknown."""
    error = rebuild_failure("process_died", "it died", "exit_code=3", b"", WHERE)
    assert isinstance(error, errors.ProcessDied)
    assert (error.exit_code, error.signal) == (3, None)
    assert error.detail == ""
    error = rebuild_failure("out_of_memory", "too much", "signal=SIGKILL\nits last words", b"", WHERE)
    assert isinstance(error, errors.OutOfMemory)
    assert (error.exit_code, error.signal) == (None, 9)
    assert error.detail == "its last words"
    error = rebuild_failure("process_died", "it died", "signal=SIGNEVER", b"", WHERE)
    assert isinstance(error, errors.ProcessDied)
    assert (error.exit_code, error.signal) == (None, None)
    error = rebuild_failure("process_died", "it died", "it printed\nexit_code=3", b"", WHERE)
    assert isinstance(error, errors.ProcessDied)
    assert error.exit_code is None


def test_every_kind_that_a_cluster_says_is_known() -> None:
    """What nodes report: from the runner, from environments, from the agent itself."""
    from keepwarm_worker.core import failures as agent
    from keepwarm_worker.environments import errors as environments
    from keepwarm_worker.runner import failures as runner

    of_agents = {value for name, value in vars(agent).items() if name.isupper() and isinstance(value, str)}
    assert of_agents >= {"process_died", "start_failed"}
    assert {*of_agents, *environments.KINDS, *runner.KINDS} <= FAILURE_KINDS.keys()


def test_unknown_kind_is_an_internal_error() -> None:
    """A newer scheduler's word does not crash an older client."""
    error = rebuild_failure("eaten_by_a_whale", "gulp", "", b"", WHERE)
    assert isinstance(error, errors.InternalError)
    assert "eaten_by_a_whale" in str(error)
    assert "gulp" in str(error)


class CustomError(Exception):
    """An exception with state, as users write them."""

    def __init__(self, code: int, *, hint: str = "") -> None:
        super().__init__(f"code {code}")
        self.code = code
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        return _make_custom, (self.code, self.hint)


def _make_custom(code: int, hint: str) -> CustomError:
    return CustomError(code, hint=hint)


def test_the_users_exception_comes_back_as_itself() -> None:
    """Type and state are kept; the remote traceback is the cause, and a note says where."""
    sent = cloudpickle.dumps(CustomError(7, hint="h"))
    error = rebuild_failure("user_exception", "", "Traceback ...\n  File remote.py\nCustomError: code 7\n", sent, WHERE)
    assert isinstance(error, CustomError)
    assert (error.code, error.hint) == (7, "h")
    assert isinstance(error.__cause__, RemoteTraceback)
    shown = "".join(traceback.format_exception(error))
    assert "File remote.py" in shown
    assert "raised remotely in function main:f, environment 3fa9, on node n1, call 7" in shown


def test_setup_failure_is_the_setups_own_exception() -> None:
    """The note tells that it was the setup."""
    error = rebuild_failure("setup_failed", "", "Traceback", pickle.dumps(KeyError("model")), WHERE)
    assert type(error) is KeyError
    assert "raised by its setup" in error.__notes__[0]


class _NeedsTwo(Exception):  # noqa: N818
    def __init__(self, one: int, two: int) -> None:
        super().__init__(one)


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (b"", "could not be sent"),
        (b"garbage", "cannot be rebuilt here"),
        (pickle.dumps(_NeedsTwo(1, 2)), "cannot be rebuilt here: ResultNotLoadable"),
        (b"cno_such_module\nError\n.", "no_such_module"),
        (pickle.dumps(42), "is a int"),
        (pickle.dumps(SystemExit(1)), "SystemExit is not raised"),
        (pickle.dumps(KeyboardInterrupt()), "KeyboardInterrupt is not raised"),
        (pickle.dumps(StopIteration()), "StopIteration is not raised"),
    ],
)
def test_what_cannot_be_rebuilt_is_a_remote_error(sent: bytes, why: str) -> None:
    """It says why, keeps the type's name and the traceback, and can be pickled."""
    text = "Traceback (most recent call last):\n  File remote.py\nlib.errors.Odd: out of cheese\n"
    error = rebuild_failure("user_exception", "lib.errors.Odd: out of cheese", text, sent, WHERE)
    assert isinstance(error, RemoteError)
    assert why in str(error)
    assert str(error).startswith("lib.errors.Odd: out of cheese")
    assert error.type_name == "lib.errors.Odd"
    assert error.traceback_text == text
    assert error.function == "main:f"
    assert isinstance(error.__cause__, RemoteTraceback)
    assert pickle.loads(pickle.dumps(error)).type_name == "lib.errors.Odd"


def test_an_exception_that_refuses_attributes_is_a_remote_error() -> None:
    """rebuild_failure never raises, whatever the class does."""
    error = rebuild_failure("user_exception", "Frozen: no", "Frozen: no", cloudpickle.dumps(FrozenError()), WHERE)
    assert isinstance(error, RemoteError)
    assert "cannot be marked" in str(error)


class FrozenError(Exception):
    """An exception that cannot be changed, as frozen dataclasses are."""

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(name)
