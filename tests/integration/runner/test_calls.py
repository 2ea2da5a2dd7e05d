"""What calls come to: results, failures, setups and versions, under every Python that is installed."""

import pickle
from pathlib import Path

import cloudpickle
import pytest

from keepwarm_worker.processes import FrameReader
from keepwarm_worker.runner import frames
from support.instances import NO_ARGUMENTS, OWN_FRAMES, Start, interpreter, load_as_client, start_instance


def refused(result: frames.Result, kind: str) -> frames.Result:
    """The result, which must be a failure of this kind."""
    assert (result.status, result.kind) == (frames.STATUS_FAILED, kind), result
    return result


# ---------------------------------------------------------------- results


def test_hello_names_the_interpreter(runner: Path, tmp_path: Path) -> None:
    """Minor, full version and implementation, and the process that speaks."""
    python = interpreter("own")
    assert python is not None
    instance = start_instance(python, runner, tmp_path)
    hello = instance.hello()
    instance.close()
    assert hello.pid == instance.process.pid
    assert hello.version.startswith(f"{hello.python}.")
    assert hello.implementation == "cpython"


def test_a_call_is_answered_in_order(start: Start) -> None:
    """The first call loads, the second does not: their frames say so."""
    instance = start()
    version = instance.load("add")
    arguments = pickle.dumps(((20,), {"b": 22}))
    first = instance.answer(instance.start(version, arguments))
    assert first.value() == 42
    assert [type(frame) for frame in first.received] == [frames.Started, frames.SetupDone, frames.Result]
    assert first.received[0] == frames.Started(1, True)
    second = instance.answer(instance.start(version, arguments))
    (started, done) = second.received
    assert started == frames.Started(2, False)
    assert type(done) is frames.Done
    third = instance.answer(instance.start(version, arguments, frames.QUIET))
    assert [type(frame) for frame in third.received] == [frames.Done]
    assert instance.process.board.read()[0] == 3


def test_calls_may_be_sent_ahead(start: Start) -> None:
    """They wait in the pipe and are answered one after another."""
    instance = start()
    version = instance.load("add")
    attempts = [instance.start(version, pickle.dumps(((n,), {}))) for n in range(200)]
    assert [instance.answer(attempt).value() for attempt in attempts] == list(range(200))


def test_an_async_function_runs_to_its_end(start: Start) -> None:
    """Its value is the result, not the coroutine."""
    assert start().run("gather").value() == ["a", "b"]


def test_classes_of_the_script_travel_both_ways_by_value(start: Start) -> None:
    """An argument of the script's own class is one to the function too, and a result of it needs cloudpickle."""
    instance = start()
    assert instance.pickles is not None
    version = instance.load("double_point")
    answer = instance.answer(instance.start(version, instance.pickles.bodies["a point"]))
    assert answer.result.status == frames.STATUS_OK
    assert answer.result.codec == instance.pickles.codec
    assert b"_keepwarm_cloudpickle" in answer.payload


def test_a_result_by_value_loads_at_the_driver(start_own: Start) -> None:
    """Once the private name is mapped back, which has another length: it takes an unpickler."""
    answer = start_own().run("return_lambda")
    assert load_as_client(answer.payload)() == 42


def test_large_arguments_and_results_go_through_files(start: Start) -> None:
    """100 MiB in, 100 MiB out; no frame is larger than its limit, and nothing else is left in the spool."""
    instance = start()
    size = 100 * 1024 * 1024
    path = instance.spool.parent / "arguments"
    path.write_bytes(pickle.dumps(((b"x" * size,), {}), protocol=5))
    stored = frames.Stored(str(path), path.stat().st_size, bytes(32))
    assert instance.answer(instance.start(instance.load("length"), stored)).value() == size
    answer = instance.run("blob", size)
    assert isinstance(answer.result.payload, frames.Stored)
    assert len(answer.value()) == size
    assert [path.name for path in instance.spool.iterdir()] == [answer.result.payload.path]


def test_a_large_function_body_goes_through_a_file(start_own: Start) -> None:
    """What it captured is over the inline limit."""
    instance = start_own()
    ballast = "x" * 200_000
    path = instance.spool.parent / "body"
    path.write_bytes(cloudpickle.dumps((lambda: len(ballast), None)))
    version = instance.load("", body=frames.Stored(str(path), path.stat().st_size, bytes(32)))
    assert instance.answer(instance.start(version, NO_ARGUMENTS)).value() == 200_000


def test_a_full_spool_is_not_the_functions_fault(start_own: Start) -> None:
    """A result that cannot be written is a failure of its own kind; small ones still work."""
    instance = start_own()
    instance.spool.rmdir()
    result = refused(instance.run("blob", 1 << 20).result, "result_not_stored")
    assert "cannot be stored" in result.message
    instance.still_works()


# ---------------------------------------------------------------- failures of calls


def test_an_exception_comes_with_its_traceback(start: Start) -> None:
    """Type, message, the user's source lines, and none of the runner's frames; the exception itself unpickles."""
    instance = start()
    answer = instance.run("fail", "told you")
    result = refused(answer.result, "user_exception")
    assert (result.type_name, result.message) == ("ValueError", "told you")
    assert "raise ValueError(text)" in result.traceback
    assert result.traceback.startswith("Traceback")
    assert not any(name in result.traceback for name in OWN_FRAMES), result.traceback
    error = pickle.loads(answer.payload)
    assert isinstance(error, ValueError)
    assert error.args == ("told you",)
    instance.still_works()


def test_an_exception_keeps_its_chain(start_own: Start) -> None:
    """The cause travels in the state of the exception; its class, of the script, by value."""
    answer = start_own().run("fail_chained")
    result = refused(answer.result, "user_exception")
    assert "KeyError: 'missing'" in result.traceback
    assert result.type_name == "__main__.ScriptError"
    error = load_as_client(answer.payload)
    assert str(error) == "outer"
    assert isinstance(error.__cause__, KeyError)
    assert error.__suppress_context__


def test_an_exception_that_its_own_args_do_not_make_again_travels(start_own: Start) -> None:
    """It is made without calling its `__init__`; its attributes are kept."""
    error = load_as_client(start_own().run("fail_picky").payload)
    assert (str(error), error.code) == ("404: gone", 404)


@pytest.mark.parametrize(
    ("name", "text"),
    [("fail_unpicklable", "holds a lock"), ("fail_unprintable", "__str__ failed"), ("fail_long", "bytes left out")],
)
def test_an_awkward_exception_is_described_all_the_same(start: Start, name: str, text: str) -> None:
    """Unpicklable, unprintable, or huge and not even Unicode: the texts travel within their limits."""
    instance = start()
    result = refused(instance.run(name).result, "user_exception")
    assert text in result.message
    assert result.type_name.rpartition(".")[2] in result.traceback
    if name == "fail_unpicklable":
        assert result.payload == b""
    instance.still_works()


def test_leaving_is_a_failure_of_the_call_only(start: Start) -> None:
    """`sys.exit` in user code does not end the process."""
    instance = start()
    answer = instance.run("leave", 3)
    assert refused(answer.result, "user_exception").type_name == "SystemExit"
    assert pickle.loads(answer.payload).code == 3
    instance.still_works()


def test_an_unpicklable_result_names_its_type(start: Start) -> None:
    """The call fails, the instance is healthy."""
    instance = start()
    result = refused(instance.run("return_lock").result, "result_unpicklable")
    assert "a lock, cannot be pickled" in result.message
    instance.still_works()


def test_a_function_of_another_python_is_refused_unread(start: Start) -> None:
    """Both versions are named; the body, which would crash this interpreter, is not touched."""
    instance = start()
    assert instance.pickles is not None
    version = instance.load("add", codec="cloudpickle:cp307", body=b"not even a pickle")
    result = refused(instance.answer(instance.start(version, NO_ARGUMENTS)).result, "python_mismatch")
    assert "cloudpickle:cp307" in result.message
    assert instance.pickles.codec in result.message
    instance.still_works()


def test_arguments_by_value_are_refused_for_a_function_by_reference(start_own: Start) -> None:
    """A function by reference may come from any Python, so code in its arguments may too."""
    instance = start_own()
    version = instance.load("len", codec="pickle", body=pickle.dumps((len, None)))
    assert instance.answer(instance.start(version, pickle.dumps((([1, 2],), {})))).value() == 2
    arguments = cloudpickle.dumps(((lambda: 1,), {}))
    refused(instance.answer(instance.start(version, arguments)).result, "python_mismatch")


def test_a_missing_module_is_named_with_a_hint(start: Start) -> None:
    """For functions and for arguments."""
    instance = start()
    body = b"cno_such_module\nthing\n."
    for version, arguments, kind in (
        (instance.load("add", body=body, alias="broken"), NO_ARGUMENTS, "function_unloadable"),
        (instance.load("add"), body, "arguments_unloadable"),
    ):
        result = refused(instance.answer(instance.start(version, arguments)).result, kind)
        assert "no_such_module" in result.message
        assert "requirements=[" in result.message
    instance.still_works()


def test_an_unknown_version_fails_the_call(start_own: Start) -> None:
    """The agent forgot to load: the call says so, and whose fault it is."""
    instance = start_own()
    result = refused(instance.answer(instance.start(b"?" * 32, NO_ARGUMENTS)).result, "function_not_loaded")
    assert "a fault of the agent" in result.message
    instance.still_works()


# ---------------------------------------------------------------- setup and versions


def test_setup_runs_once_and_its_value_comes_first(start: Start) -> None:
    """Per function version and instance."""
    instance = start()
    version = instance.load("with_setup")
    for argument in ("a", "b"):
        answer = instance.answer(instance.start(version, pickle.dumps(((argument,), {}))))
        assert answer.value() == (1, argument)


def test_a_failed_setup_fails_its_call_and_is_tried_again(start: Start) -> None:
    """The instance is warm, not ready; the next call runs the setup anew."""
    instance = start()
    version = instance.load("with_failing_setup")
    arguments = pickle.dumps((("x",), {}))
    answer = instance.answer(instance.start(version, arguments))
    result = refused(answer.result, "setup_failed")
    assert (result.type_name, result.message) == ("OSError", "the model is not there yet")
    assert [type(frame) for frame in answer.received] == [frames.Started, frames.Result]
    again = instance.answer(instance.start(version, arguments))
    assert again.received[0] == frames.Started(2, True)
    assert again.value() == ("model", "x")


def test_a_new_version_drops_the_old_and_its_setup_value(start: Start) -> None:
    """Before the new one is made; the old version is unknown from then on. Other functions stay."""
    instance = start()
    other = instance.load("add")
    old = instance.load("with_noticed_setup", alias="f")
    assert instance.answer(instance.start(old, NO_ARGUMENTS)).value() == "ran"
    assert instance.stdout == ""
    new = instance.load("gather", alias="f")
    assert instance.answer(instance.start(new, NO_ARGUMENTS)).value() == ["a", "b"]
    assert instance.stdout == "dropped\n"
    refused(instance.answer(instance.start(old, NO_ARGUMENTS)).result, "function_not_loaded")
    assert instance.answer(instance.start(other, pickle.dumps(((1,), {})))).value() == 1


def test_loading_the_same_version_again_keeps_it(start_own: Start) -> None:
    """No second setup."""
    instance = start_own()
    arguments = pickle.dumps(((0,), {}))
    for _ in range(2):
        version = instance.load("with_setup")
        assert instance.answer(instance.start(version, arguments)).value() == (1, 0)


# ---------------------------------------------------------------- asked back


def test_a_call_in_the_pipe_is_given_back_while_another_runs(start: Start) -> None:
    """Under every Python: the helper thread answers at once, and the main thread skips the call when it gets there."""
    instance = start()
    adding = instance.load("add")
    assert instance.answer(instance.start(adding, pickle.dumps(((1,), {})))).value() == 1
    version = instance.load("nap")
    sleeping = instance.start(version, pickle.dumps(((0.5,), {})))
    instance.started(sleeping)
    attempts = [instance.start(adding, pickle.dumps(((number,), {})), frames.QUIET) for number in range(4)]
    instance.control.queue(frames.Recall(attempts[1]))
    instance.control.queue(frames.Recall(attempts[1]))
    instance.control.queue(frames.Recall(attempts[3]))
    given_back = FrameReader(instance.process.control)
    answers: list[frames.Frame] = []

    def is_answered() -> bool:
        answers.extend(given_back.receive())
        return len(answers) == 2

    instance.wait(is_answered)
    assert answers == [frames.Recalled(attempts[1]), frames.Recalled(attempts[3])]
    assert not any(isinstance(frame, frames.Done | frames.Result) for frame in instance.frames)
    assert instance.answer(sleeping).result.status == frames.STATUS_OK
    assert [instance.answer(attempts[number]).value() for number in (0, 2)] == [0, 2]
    instance.still_works()
