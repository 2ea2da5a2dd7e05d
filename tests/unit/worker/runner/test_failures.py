"""Exceptions as texts and as pickles: always described, sent only if they can be made again."""

import pickle
import subprocess

import pytest

from keepwarm_worker.runner import failures


class Picky(Exception):  # noqa: N818 - named as users name them
    """Its args do not fit its `__init__`."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code} {text}")
        self.code = code


class Unpicklable(Exception):  # noqa: N818
    """Refuses."""

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("no")


class Lying(Exception):  # noqa: N818
    """Pickles, but not as itself."""

    def __reduce__(self) -> tuple[object, ...]:
        return (str, ("x",))


def again(error: BaseException) -> BaseException:
    """The exception after its journey."""
    codec, data = failures.dump_exception(error)
    assert codec == "pickle"
    loaded = pickle.loads(data)
    assert isinstance(loaded, BaseException)
    return loaded


def raised(
    error: BaseException, cause: BaseException | None = None, context: BaseException | None = None
) -> BaseException:
    """The exception as it is when it was raised in this situation."""
    error.__context__ = context
    if cause is not None:
        error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x", 1),
        OSError(2, "No such file", "path"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        SystemExit(3),
        StopIteration("value"),
        subprocess.CalledProcessError(3, ["ls"], output=b"x" * 100_000),
        ImportError("no", name="module"),
        Picky(404, "gone"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_exceptions_travel(error: BaseException) -> None:
    """With their type, arguments, attributes."""
    loaded = again(error)
    assert type(loaded) is type(error)
    assert (loaded.args, str(loaded), vars(loaded)) == (error.args, str(error), vars(error))


def test_an_explicit_cause_travels() -> None:
    """And keeps the context silent, as at its home."""
    loaded = again(raised(ValueError("outer"), cause=KeyError("cause"), context=OSError("context")))
    assert isinstance(loaded.__cause__, KeyError)
    assert isinstance(loaded.__context__, OSError)
    assert loaded.__suppress_context__


def test_an_implicit_context_travels() -> None:
    """And is shown."""
    loaded = again(raised(ValueError("outer"), context=raised(OSError("middle"), context=KeyError("inner"))))
    assert isinstance(loaded.__context__, OSError)
    assert isinstance(loaded.__context__.__context__, KeyError)
    assert not loaded.__suppress_context__


def test_a_chain_that_cannot_travel_is_left_behind() -> None:
    """The exception itself goes alone."""
    loaded = again(raised(Picky(1, "x"), cause=Unpicklable()))
    assert isinstance(loaded, Picky)
    assert loaded.__cause__ is None


def test_what_cannot_be_made_again_does_not_travel() -> None:
    """Not even if it pickles."""
    for error in (Unpicklable(), Lying()):
        assert failures.dump_exception(error) == ("pickle", b"")


def test_texts_are_bounded_and_encodable() -> None:
    """The middle is left out; lone surrogates are escaped."""
    described = failures.describe(ValueError("\udcff" + "x" * 10**6 + "end"))
    assert len(described.message.encode()) <= 16 * 1024
    assert len(described.traceback.encode()) <= 64 * 1024
    assert described.message.startswith("\\udcff")
    assert described.message.endswith("end")
    assert "bytes left out" in described.message


def test_a_bare_description_runs_no_code_of_the_exception() -> None:
    """For exceptions whose own code does not return."""

    class HostileError(Exception):
        def __str__(self) -> str:
            raise AssertionError("was run")

    described = failures.describe_barely(HostileError())
    assert described.message == ""
    assert described.traceback.endswith("HostileError\n")


def test_kinds_explain_themselves() -> None:
    """What failed, and a hint where there is one."""
    missing = ModuleNotFoundError("No module named 'x'", name="x")
    assert "requirements=[" in failures.describe(missing, failures.FUNCTION_UNLOADABLE).message
    assert failures.describe(missing, failures.USER_EXCEPTION).message == "No module named 'x'"
    assert "a lock, cannot be pickled" in failures.describe(TypeError("t"), failures.RESULT_UNPICKLABLE, "lock").message
