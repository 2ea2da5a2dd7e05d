"""Loading functions, setting them up, running calls: the runner's main thread.

Rules:
- The main thread reads the data socket itself and runs user code itself. One call at a time, in the order of arrival.
- Whatever user code raises, `SystemExit` included, is an outcome of its call; the process goes on.
- An instance holds one version of a function's name. Loading is lazy: user imports and setup happen under the first
  call, between `Started` and `SetupDone`. What failed is tried again by the next call.
- Everything a call printed has left this process before its `Result` does.
- User code runs inside `Interrupts.guard`, the runner's own never does.
"""

from __future__ import annotations

import os
import signal
import sys
from time import perf_counter_ns

from . import control, failures, frames, serialization

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType, ModuleType
    from typing import Any, Callable, Dict, List, Optional, Tuple, Type, TypeVar

    from . import lending, running, unread
    from .frames import Payload

    T = TypeVar("T")

__all__ = ["encode_outcome", "serve"]

_READ_BYTES = 128 * 1024
_NO_ARGUMENTS = serialization.fast_pickle.dumps(((), {}), serialization.PROTOCOL)
_INTERRUPTED: Dict[Type[BaseException], Tuple[int, str]] = {
    control.CallCancelled: (frames.STATUS_CANCELLED, failures.CANCELLED),
    control.CallTimeout: (frames.STATUS_TIMED_OUT, failures.TIMED_OUT),
}
_OWN_KINDS: Dict[Type[BaseException], str] = {
    serialization.PythonMismatchError: failures.PYTHON_MISMATCH,
    serialization.SpoolError: failures.RESULT_NOT_STORED,
}


async def _nothing() -> None:
    """Made only to know the type of a coroutine: `types` may not be imported yet."""


_coroutine = _nothing()
_CoroutineType = type(_coroutine)
_coroutine.close()


def _awaited(value: Any) -> Any:
    """What an async function returns in the end."""
    if type(value) is not _CoroutineType:
        return value
    import asyncio

    return asyncio.run(value)


class _Function:
    """One version of one function: first its pickle, once a call needed it the function itself."""

    def __init__(self, frame: frames.Load) -> None:
        self.frame: Optional[frames.Load] = frame
        self.codec = frame.codec
        self.ready = False
        self.setup_value: Any = None
        self.main = _new_main()
        self._function: Any = None
        self._setup: Any = None

    def unpickle(self) -> None:
        """Replace the pickle by the function. Raises whatever that raises, and `PythonMismatchError`."""
        if self.frame is None:
            return
        serialization.require_own_python(self.codec)
        self._function, self._setup = serialization.load(self.frame.body)
        self.main.__dict__.update(_main_globals(self._function))
        self.frame = None

    def set_up(self) -> None:
        """Run the setup, if there is one, and keep its value."""
        if self._setup is not None:
            self.setup_value = _awaited(self._setup())
        self.ready = True

    def run(self, arguments: Tuple[Tuple[Any, ...], Dict[str, Any]]) -> Any:
        args, kwargs = arguments
        if self._setup is not None:
            args = (self.setup_value, *args)
        value = self._function(*args, **kwargs)
        return value if type(value) is not _CoroutineType else _awaited(value)

    @property
    def had_setup(self) -> bool:
        return self._setup is not None


def _new_main() -> ModuleType:
    module = type(sys)("__main__")
    module.__dict__["__builtins__"] = __builtins__
    return module


def _main_globals(function: Any) -> Dict[str, Any]:
    """What the function's script defined, if it was one: `multiprocessing` finds these by name in `__main__`.

    Not where the script lies: `multiprocessing` would run it all over again in each process that it spawns.
    """
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    names = getattr(function, "__globals__", {})
    if names.get("__name__") != "__main__":
        return {}
    return {name: value for name, value in names.items() if name != "__file__"}


class _Call:
    """One attempt while it runs: how far it came, how long that took, what came of it."""

    __slots__ = ("_sink", "_spool", "codec", "frame", "kind", "payload", "result_type", "run_us", "setup_us")

    def __init__(self, frame: frames.Call, spool: str) -> None:
        self.frame = frame
        self._spool = spool
        self._sink: Optional[serialization.Sink] = None
        self.payload: Optional[Payload] = None
        """The pickle of the value that was returned, once it is complete."""
        self.kind = failures.FUNCTION_UNLOADABLE
        self.codec = frames.PICKLE_CODEC
        self.setup_us = 0
        self.run_us = 0
        self.result_type = ""

    @property
    def sink(self) -> serialization.Sink:
        """Where a payload of any size goes. Made when it is needed: most calls do without."""
        if self._sink is None:
            self._sink = serialization.Sink(self._spool, "result-%016x" % self.frame.attempt)
        return self._sink

    def complete_payload(self) -> Optional[BaseException]:
        """Take the payload out of the sink unless it needed none. Returns what prevented it."""
        if self.payload is None:
            try:
                self.payload = self.sink.finish()
            except serialization.SpoolError as error:
                return error
        return None

    def result(self, status: int, payload: Payload, kind: str, texts: failures.Description) -> frames.Result:
        times_us = (self.setup_us, self.run_us)
        return frames.Result(self.frame.attempt, status, self.codec, payload, *times_us, kind, *texts, False)


class _Runner:
    """The functions of this instance and its data socket."""

    _board: running.RunningBoard
    _outputs: unread.Outputs

    def __init__(self, data_fd: int, spool: str, interrupts: control.Interrupts) -> None:
        self._data_fd = data_fd
        self._waits_for_drain = False
        self._spool = spool
        self._interrupts = interrupts
        self._functions: Dict[bytes, _Function] = {}
        self._versions: Dict[str, bytes] = {}
        self._empty_main = _new_main()
        self._is_fork = False
        self.loan: Optional[lending.Loan] = None
        sys.modules["__main__"] = self._empty_main
        self._handlers: Dict[Type[Any], Callable[[Any], None]] = {frames.Load: self._load, frames.Call: self._call}

    def send(self, frame: frames.Frame) -> None:
        self._write(frames.encode(frame))

    def _write(self, data: bytes) -> None:
        try:
            sent = os.write(self._data_fd, data)
            while sent < len(data):
                data = data[sent:]
                sent = os.write(self._data_fd, data)
        except OSError:
            control.die_with_agent()

    def prepare(self, board_fd: int) -> None:
        """What the first call needs and the greeting does not: the agent reads that meanwhile."""
        from . import running, unread  # with three modules of the standard library that nothing else here needs

        self._board = running.RunningBoard(board_fd)
        os.close(board_fd)
        self._outputs = unread.Outputs((1, 2))
        try:  # noqa: SIM105 - contextlib would be one more import at start
            serialization.private_cloudpickle()  # nearly every function needs it
        except Exception:
            pass  # the first function that needs it fails with this error

    def serve(self) -> None:
        """Handle frames until `Exit`; without an agent, die."""
        decoder = frames.FrameDecoder()
        waiting: List[frames.Frame] = []
        while True:
            for frame in self._receive(decoder):
                if type(frame) is frames.Drained:
                    self._waits_for_drain = False
                else:
                    waiting.append(frame)
            waiting.reverse()
            while waiting and not self._waits_for_drain:
                frame = waiting.pop()
                if type(frame) is frames.Exit:
                    return
                self._handlers[type(frame)](frame)
            waiting.reverse()

    def _receive(self, decoder: frames.FrameDecoder) -> List[frames.Frame]:
        try:
            data = os.read(self._data_fd, _READ_BYTES)
        except OSError:
            data = b""
        if not data:
            control.die_with_agent()
        return decoder.feed(data)

    def become_fork(self, control_fd: int) -> None:
        """In a child that user code forked: it must not speak for us, nor hold our sockets open."""
        if self._is_fork:
            return  # a grandchild: these numbers may be its parent's own files by now
        self._is_fork = True
        self._interrupts.abandon()
        lent = () if self.loan is None else self.loan.descriptors()
        for descriptor in (self._data_fd, control_fd, *lent):
            try:  # noqa: SIM105 - contextlib would be one more import at start
                os.close(descriptor)
            except OSError:
                pass

    def _run_user_code(self, attempt: int, action: Callable[[], T]) -> Tuple[Optional[T], Optional[BaseException]]:
        value, error = self._interrupts.guard(attempt, action)
        if self._is_fork:
            _end_fork(error)
        return value, error

    def _load(self, frame: frames.Load) -> None:
        old = self._versions.get(frame.name)
        self._versions[frame.name] = frame.function_version
        if old is not None and old not in self._versions.values():
            dropped = self._functions.pop(old)
            if dropped.had_setup:
                del dropped
                import gc

                gc.collect()  # a setup value may hold a model or a GPU: free it before the new one is made
        if frame.function_version not in self._functions:
            self._functions[frame.function_version] = _Function(frame)

    def _call(self, frame: frames.Call) -> None:
        attempt = frame.attempt
        if not self._interrupts.begin(attempt):
            return
        self._board.begin(attempt)
        function = self._functions.get(frame.function_version)
        is_set_up = function is not None and function.ready
        if not (is_set_up and frame.flags & frames.QUIET):
            self.send(frames.Started(attempt, not is_set_up))
        call = _Call(frame, self._spool)
        error = None if is_set_up else self._prepare(call, function)
        if error is None and function is not None:
            error = self._lend(call, function) if frame.flags & frames.LOAN else self._run(call, function)
        result = self._end(call, error)
        self._waits_for_drain = printed = self._outputs.are_unread()
        self._write(encode_outcome(call, result, printed))

    def _end(self, call: _Call, error: Optional[BaseException]) -> Optional[frames.Result]:
        """The call has run, or could not: its outcome, unless the common short form tells it."""
        sys.modules["__main__"] = self._empty_main
        if error is None:
            error = call.complete_payload()
        result = self._conclude(call, error) if error is not None or call.setup_us else None
        _flush_output()
        self._interrupts.end(call.frame.attempt)
        return result

    def _lend(self, call: _Call, function: _Function) -> Optional[BaseException]:
        """Serve a client directly until that is over. Returns what went wrong with the loan itself."""
        from . import lending  # few processes are lent

        keep = call.sink.write
        self.loan = lending.Loan(call.frame, self._spool, self._interrupts, self._board, self._outputs, keep)
        call.kind = failures.NOT_LENT
        started_ns = perf_counter_ns()
        error = self.loan.serve(lambda lent: self._run_lent(lent, function))
        call.run_us = (perf_counter_ns() - started_ns) // 1000
        self.loan = None
        return error

    def _run_lent(self, frame: frames.Call, function: _Function) -> Tuple[_Call, Optional[frames.Result]]:
        """Run a call of the client that this process is lent to."""
        call = _Call(frame, self._spool)
        return call, self._end(call, self._run(call, function))

    def _prepare(self, call: _Call, function: Optional[_Function]) -> Optional[BaseException]:
        """Make the function ready. Returns what prevented it."""
        if function is None:
            call.kind = failures.FUNCTION_NOT_LOADED
            version = call.frame.function_version.hex()
            return LookupError(
                "function version %s was never loaded into this instance: a fault of the agent" % version
            )
        loaded = function
        started_ns = perf_counter_ns()

        def make_ready() -> None:
            sys.modules["__main__"] = loaded.main
            loaded.unpickle()
            call.kind = failures.SETUP_FAILED
            loaded.set_up()

        _, error = self._run_user_code(call.frame.attempt, make_ready)
        call.setup_us = (perf_counter_ns() - started_ns) // 1000
        if error is None:
            self.send(frames.SetupDone(call.frame.attempt, call.setup_us))
        return error

    def _run(self, call: _Call, function: _Function) -> Optional[BaseException]:
        """Read the arguments, run, pickle the result. Returns what went wrong."""

        def read_run_pickle() -> None:
            sys.modules["__main__"] = function.main
            call.kind = failures.ARGUMENTS_UNLOADABLE
            pickled = call.frame.arguments
            if pickled == _NO_ARGUMENTS:
                arguments: Tuple[Tuple[Any, ...], Dict[str, Any]] = ((), {})  # a new dict: not every callee copies it
            else:
                arguments = serialization.load(pickled, by_value=function.codec != frames.PICKLE_CODEC)
            call.kind = failures.USER_EXCEPTION
            started_ns = perf_counter_ns()
            try:
                value = function.run(arguments)
            finally:
                call.run_us = (perf_counter_ns() - started_ns) // 1000
            if self._is_fork:
                return
            call.kind = failures.RESULT_UNPICKLABLE
            call.payload = serialization.dump_atom(value)
            if call.payload is not None:
                return
            call.result_type = type(value).__qualname__
            # What the script defined lives in its `__main__`, not in ours: it must travel back by value, as it came.
            sys.modules["__main__"] = self._empty_main
            call.codec = serialization.dump(value, call.sink)

        return self._run_user_code(call.frame.attempt, read_run_pickle)[1]

    def _conclude(self, call: _Call, error: Optional[BaseException]) -> frames.Result:
        if error is None and call.payload is not None:
            return call.result(frames.STATUS_OK, call.payload, "", failures.NOTHING)
        assert error is not None
        call.sink.reset()
        call.codec = frames.PICKLE_CODEC
        delivered = self._interrupts.delivered
        if delivered is not None:
            status, kind = _INTERRUPTED[delivered]
        else:
            status, kind = frames.STATUS_FAILED, _OWN_KINDS.get(type(error), call.kind)
        description = self._describe(call, error, kind)
        payload = self._exception_payload(call, error) if kind in failures.KINDS_WITH_EXCEPTION else b""
        return call.result(status, payload, kind, description)

    def _describe(self, call: _Call, error: BaseException, kind: str) -> failures.Description:
        description, _ = self._run_user_code(
            call.frame.attempt, lambda: failures.describe(error, kind, call.result_type)
        )
        return failures.describe_barely(error) if description is None else description

    def _exception_payload(self, call: _Call, error: BaseException) -> Payload:
        pickled, _ = self._run_user_code(call.frame.attempt, lambda: failures.dump_exception(error))
        if pickled is None:
            return b""
        call.codec, data = pickled
        try:
            call.sink.write(data)
            return call.sink.finish()
        except serialization.SpoolError:
            call.sink.reset()
            call.codec = frames.PICKLE_CODEC
            return b""


def encode_outcome(call: _Call, result: Optional[frames.Result], printed: bool) -> bytes:
    """The bytes of a call's outcome: of ``result``, or of the common short form."""
    if result is not None:
        return frames.encode(result._replace(printed=printed))
    payload = call.payload
    assert payload is not None
    if type(payload) is bytes:
        return frames.encode_inline_done(call.frame.attempt, call.run_us, printed, payload)
    return frames.encode(frames.Done(call.frame.attempt, call.run_us, printed, payload))


def _end_fork(error: Optional[BaseException]) -> None:
    """End a child that user code forked and that ran out of the user's function, as a script's child would end."""
    code = 0
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    elif error is not None:
        code = 1
        sys.excepthook(type(error), error, error.__traceback__)
    _flush_output()
    os._exit(code & 0xFF)


def _flush_output() -> None:
    output, errors = sys.stdout, sys.stderr
    replaced = output is not sys.__stdout__ or errors is not sys.__stderr__
    for stream in (output, errors, sys.__stdout__, sys.__stderr__) if replaced else (output, errors):
        try:  # noqa: SIM105
            stream.flush()  # type: ignore[union-attr]  # None, closed, or anything that user code put there
        except Exception:
            pass


def _ignore(_signum: int, _frame: Optional[FrameType]) -> None:
    """Not SIG_IGN, which the programs that user code starts would inherit."""


def _prepare_process(descriptors: Tuple[int, ...]) -> None:
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)  # type: ignore[union-attr]
    sys.argv = [""]
    signal.signal(signal.SIGINT, _ignore)


def serve(data_fd: int, control_fd: int, spool: str, board_fd: int) -> None:
    """Run the calls that come over the data socket, until `Exit` or until the agent is gone."""
    _prepare_process((data_fd, control_fd, board_fd))
    interrupts = control.Interrupts()
    runner = _Runner(data_fd, spool, interrupts)
    os.register_at_fork(after_in_child=lambda: runner.become_fork(control_fd))
    control.watch(control_fd, interrupts)
    version = "%d.%d.%d" % sys.version_info[:3]
    runner.send(frames.Hello(os.getpid(), serialization.OWN_PYTHON, version, sys.implementation.name))
    runner.prepare(board_fd)
    runner.serve()
