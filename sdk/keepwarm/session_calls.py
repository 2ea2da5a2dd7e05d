"""What a session keeps of each function and each call. Records only: the rules are in ``session``."""

import enum
import hashlib
from collections import deque
from typing import TYPE_CHECKING

from keepwarm_wire.fields import INLINE_BYTES_MAX
from keepwarm_wire.messages import DeclareFunction, Failure, FunctionOptions, Outcome, Reference, Status

if TYPE_CHECKING:
    from keepwarm.borrowing import Borrowing, Loan

__all__ = ["Call", "CallState", "Function", "cancelled_here", "failed", "short"]


class CallState(enum.Enum):
    """Where a call is, as its session knows it."""

    HELD = enum.auto()
    """Waits for credit, for its function's body to arrive, or for an upload's turn."""
    UPLOADING = enum.auto()
    SUBMITTED = enum.auto()
    FETCHING = enum.auto()
    """The outcome is here, its result is on the way."""
    LENT = enum.auto()
    """A process that is lent to this program has it."""
    DONE = enum.auto()


class Function:
    """A function of the session, under its small number."""

    __slots__ = (
        "body", "body_wanted", "borrowing", "codec", "has_setup", "is_declared", "is_forgotten", "is_large",
        "is_stored", "name", "number", "options", "payload_id", "sha256", "short_name", "spec", "unanswered", "version",
        "waiting", "was_declared",
    )  # fmt: skip

    def __init__(
        self,
        number: int,
        name: str,
        version: bytes,
        codec: str,
        spec: bytes,
        has_setup: bool,
        options: FunctionOptions,
        body: bytes,
    ) -> None:
        self.number = number
        self.name = name
        self.short_name = short(name)
        self.version = version
        self.codec = codec
        self.spec = spec
        self.has_setup = has_setup
        self.options = options
        self.body = body
        self.payload_id = b""
        self.is_large = len(body) > INLINE_BYTES_MAX
        """Whether the body travels as a payload of its own."""
        self.sha256 = hashlib.sha256(body).digest() if self.is_large else b""
        self.is_declared = False
        self.was_declared = False
        """Whether the scheduler may know it, from whatever connection."""
        self.is_forgotten = False
        """Whether it is no function of the session any more: it is to be declared anew, under another number."""
        self.unanswered = 0
        """Calls of it, and detached ones that are not accepted yet."""
        self.is_stored = False
        self.body_wanted = False
        self.waiting: deque[Call] = deque()
        """Calls that cannot be sent before the body is stored."""
        self.borrowing: Borrowing | None = None
        """What is known of its calls, where they may be given to a process directly."""

    @property
    def lacks_body(self) -> bool:
        """Whether the scheduler must be handed the body before this function can be declared."""
        return self.is_large and not self.is_stored

    def declaration(self) -> DeclareFunction:
        """The message that makes it known."""
        body = Reference(self.payload_id, len(self.body), self.sha256) if self.is_large else self.body
        return DeclareFunction(
            self.number, self.name, self.version, self.codec, self.spec, self.has_setup, self.options, body
        )


class Call:
    """One call. ``owner`` is whatever the client wants back with its completion; the session never looks at it."""

    __slots__ = (
        "arguments", "cancelling", "credited_bytes", "first_home", "function", "in_credit", "is_loan", "is_uploaded",
        "lent_number", "loan", "lost_nodes", "number", "owner", "payload_id", "priority", "sha256", "size", "state",
    )  # fmt: skip

    def __init__(
        self, function: Function, arguments: bytes, owner: object, sha256: bytes = b"", priority: int = 0
    ) -> None:
        self.function = function
        self.arguments = arguments
        self.size = len(arguments)
        self.owner = owner
        self.sha256 = sha256
        """Of large arguments; when empty, the session computes it as it needs it."""
        self.priority = priority
        self.number = 0
        """Given when the call is first sent; 0 before."""
        self.state = CallState.HELD
        self.cancelling = False
        self.payload_id = b""
        self.is_uploaded = False
        """Whether the scheduler has been handed the arguments as a payload."""
        self.first_home: tuple[bytes, int] | None = None
        """Cluster id and epoch under which the call was first sent."""
        self.in_credit = False
        self.credited_bytes = 0
        self.is_loan = False
        """Whether it is a loan's own call, which nobody outside the session knows of."""
        self.loan: Loan | None = None
        """That loan; or the one under which a process has the call, or had it at its end."""
        self.lent_number = 0
        """The call's number under that loan."""
        self.lost_nodes = 0
        """How many nodes were lost under loans while they ran it."""

    @property
    def is_large(self) -> bool:
        """Whether the arguments travel as a payload of their own."""
        return self.size > INLINE_BYTES_MAX


def short(name: str) -> str:
    """A function's name without its module: what people are shown.

    >>> short("package.module:Class.method")
    'Class.method'
    """
    return name.rpartition(":")[2]


def cancelled_here() -> Outcome:
    """The outcome of a call that was cancelled before it was sent."""
    return Outcome(0, Status.CANCELLED, b"", Failure("cancelled", "the call was cancelled before it was sent"), None)


def failed(call: Call, failure: Failure) -> Outcome:
    """The outcome of a call that cannot be carried out."""
    return Outcome(call.number, Status.FAILED, b"", failure, None)
