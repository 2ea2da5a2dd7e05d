"""What can go wrong while an environment is locked, built or stored, in words for the person who asked for it.

Owns: the failure kinds, the one exception that carries them, and the table that turns uv's standard error into one.

Rules:
- uv has no machine-readable errors and its exit codes say little, so failures are told apart by phrase. The first row
  of the table that matches wins: rows about the node (disk, interpreter) come before rows about the index, and those
  come before "no solution", because uv reports a refused password as "no solution" with a hint.
- A text that leaves this module never carries a credential: everything passes through `scrub`.
- This module must never retry, log or touch the disk.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable
from typing import Final, NamedTuple
from urllib.parse import unquote

REQUIREMENTS_UNSATISFIABLE: Final = "requirements_unsatisfiable"
REQUIREMENTS_MALFORMED: Final = "requirements_malformed"
INDEX_UNREACHABLE: Final = "index_unreachable"
CREDENTIALS_REFUSED: Final = "credentials_refused"
INTEGRITY: Final = "integrity"
PYTHON_MISSING: Final = "python_missing"
DISK_FULL: Final = "disk_full"
BUILD_FORBIDDEN: Final = "build_forbidden"
TIMED_OUT: Final = "timed_out"
CANCELLED: Final = "cancelled"
INTERNAL: Final = "internal"

KINDS: Final = frozenset(
    {
        REQUIREMENTS_UNSATISFIABLE,
        REQUIREMENTS_MALFORMED,
        INDEX_UNREACHABLE,
        CREDENTIALS_REFUSED,
        INTEGRITY,
        PYTHON_MISSING,
        DISK_FULL,
        BUILD_FORBIDDEN,
        TIMED_OUT,
        CANCELLED,
        INTERNAL,
    }
)

RETRYABLE_KINDS: Final = frozenset({INDEX_UNREACHABLE, PYTHON_MISSING, DISK_FULL, TIMED_OUT})
"""The same build may succeed later, or on another node. Everything else fails the same way again."""

MAX_DETAIL_BYTES: Final = 16 * 1024
MAX_REASON_CHARACTERS: Final = 400

CACHE_MISS_PHRASES: Final = (
    "was not found in the cache",
    "network was disabled",
    "Network connectivity is disabled",
)
"""What uv says when `--offline` was the only obstacle: not an error for the user, a reason to go online."""


class EnvironmentFailure(Exception):  # noqa: N818 - a failure is what the user sees; whose error it was is `kind`
    """An environment could not be locked or built. Read-only, and safe to pickle.

    `kind` is one of the constants of this module; `message` is one sentence for the user; `detail` is uv's own words
    with credentials removed, at most 16 KiB; `retryable` says whether later, or elsewhere, may go better.

        try:
            uv.lock(["requests==99.99"], interpreter)
        except EnvironmentFailure as failure:
            print(failure.kind, failure.message)      # requirements_unsatisfiable  No versions satisfy ...
    """

    def __init__(self, kind: str, message: str, detail: str = "", retryable: bool | None = None) -> None:
        if kind not in KINDS:
            raise ValueError(f"{kind!r} is not a kind of environment failure")
        self._kind = kind
        self._message = scrub(message)
        self._detail = cap(scrub(detail))
        self._retryable = kind in RETRYABLE_KINDS if retryable is None else retryable
        super().__init__(self._kind, self._message, self._detail, self._retryable)

    @property
    def kind(self) -> str:
        return self._kind

    @property
    def message(self) -> str:
        return self._message

    @property
    def detail(self) -> str:
        return self._detail

    @property
    def retryable(self) -> bool:
        return self._retryable

    def __str__(self) -> str:
        return f"{self._message} [{self._kind}]"


class StoreInUse(RuntimeError):  # noqa: N818
    """Another agent owns this environment store. Give each agent on a machine a store directory of its own."""


class _Rule(NamedTuple):
    phrases: tuple[str, ...]
    kind: str
    sentence: str
    """May hold {subject}, the requirement that uv named, {reason}, uv's own explanation, {step}, and {place}, a URL."""
    retryable: bool | None = None
    """None: as its kind says."""


_NODE_FAULTS: Final = (errno.EIO, errno.EAGAIN, errno.ENOMEM, errno.ENFILE, errno.EMFILE, errno.EROFS)

_RULES: Final = (
    _Rule(
        ("No space left on device", "os error 28", "Disk quota exceeded", "os error 122"),
        DISK_FULL,
        "The node ran out of disk space during {step}; free some.",
    ),
    _Rule(
        tuple(form % code for code in _NODE_FAULTS for form in ("os error %d)", "Os { code: %d,")),
        INTERNAL,
        "The node is out of order, or short of something that {step} needs: {reason}.",
        retryable=True,
    ),
    _Rule(
        ("No interpreter found", "Failed to inspect Python interpreter", "Failed to query Python interpreter"),
        PYTHON_MISSING,
        "The node's Python interpreter is missing or broken: {reason}.",
    ),
    _Rule(
        ("Hash mismatch for",),
        INTEGRITY,
        "What the index served for {subject} is not what was locked; nothing was installed. "
        "Either the index replaced the file or someone tampered with it: refresh the lock only if you know why.",
    ),
    _Rule(
        ("all requirements must have a hash",),
        INTEGRITY,
        "The lock names {subject} without a hash, so it cannot be checked; nothing was installed.",
    ),
    _Rule(
        (
            "valid authentication credentials",
            "401 Unauthorized",
            "403 Forbidden",
            "client error (401",
            "client error (403",
        ),
        CREDENTIALS_REFUSED,
        "The package index refused the node's credentials; check the index address and its user name and password.",
    ),
    _Rule(
        ("has no usable wheels", "Building source distributions is disabled", "building from source is disabled"),
        BUILD_FORBIDDEN,
        "No wheel of {subject} fits this Python and platform, only its source, and nodes do not run build scripts; "
        "ask for a version that has a wheel, or publish one.",
    ),
    _Rule(
        ("Couldn't parse requirement", "Failed to parse"),
        REQUIREMENTS_MALFORMED,
        "A requirement cannot be read: {reason}.",
    ),
    _Rule(
        ("client error (404", "client error (410"),
        REQUIREMENTS_UNSATISFIABLE,
        "The file of {subject} does not exist on its server.",
    ),
    _Rule(
        (
            "Request failed after",
            "Failed to fetch",
            "error sending request",
            "dns error",
            "tcp connect error",
            "invalid peer certificate",
            "operation timed out",
            "Git operation failed",
        ),
        INDEX_UNREACHABLE,
        "The package index could not be reached from the node during {step}{place}: {reason}.",
    ),
    _Rule(
        CACHE_MISS_PHRASES,
        INDEX_UNREACHABLE,
        "The node's package cache lacks {subject}, and the network may not be used.",
    ),
    _Rule(
        ("No solution found", "is unsatisfiable", "are unsatisfiable"),
        REQUIREMENTS_UNSATISFIABLE,
        "No versions satisfy the requirements: {reason}.",
    ),
)

_SUBJECTS: Final = (
    re.compile(r"Hash mismatch for `([^`]+)`"),
    re.compile(r"none were provided for: (\S+)"),
    re.compile(r"Because (\S+) has no usable wheels"),
    re.compile(r"Because (?:only )?(\S+) was not found in the cache"),
    re.compile(r"Failed to (?:download|fetch|build|install)[^`]*`([^`]+)`"),
    re.compile(r"Wheels are required for `([^`]+)`"),
)
_FETCHED: Final = re.compile(r"Failed to fetch: `?([a-z+]+://[^\s`]{1,200})")
_CONCLUSION: Final = re.compile(r",? we can conclude that your requirements are unsatisfiable\.?$")
_URL_CREDENTIALS: Final = re.compile(r"([a-zA-Z][a-zA-Z0-9+.\-]*://)[^\s/]*@")
_QUERY_SECRETS: Final = re.compile(
    r"([?&](?:[\w\-]*(?:token|signature|password|secret|key|credential)[\w\-]*|sig)=)[^&\s`'\")]+", re.IGNORECASE
)
_MASK: Final = "***"


def classify(returncode: int, stderr: str, step: str, secrets: Iterable[str] = ()) -> EnvironmentFailure:
    """The failure that a uv process with this exit status and standard error stands for. Never raises.

    `step` names what was being done ("lock", "venv", "install"). `secrets` are values to mask wherever they appear.

        classify(1, "error: No solution found ...", "lock").kind == REQUIREMENTS_UNSATISFIABLE
    """
    text = scrub(stderr, secrets)
    for rule in _RULES:
        if any(phrase in text for phrase in rule.phrases):
            sentence = rule.sentence.format(subject=_subject(text), reason=_reason(text), step=step, place=_place(text))
            return EnvironmentFailure(rule.kind, sentence, text, rule.retryable)
    if returncode < 0:
        message = f"uv was killed by signal {-returncode} during {step}; the node may be short of memory."
        return EnvironmentFailure(INTERNAL, message, text, retryable=True)
    return EnvironmentFailure(INTERNAL, f"uv failed during {step} (exit status {returncode}): {_reason(text)}.", text)


def is_cache_miss(stderr: str) -> bool:
    """Whether an offline uv run failed only because something is not in its cache."""
    return any(phrase in stderr for phrase in CACHE_MISS_PHRASES)


def scrub(text: str, secrets: Iterable[str] = ()) -> str:
    """`text` without credentials: user information and secret query parameters of URLs, and each of `secrets`.

    scrub("https://me:pw@host/simple") == "https://***@host/simple"
    """
    for secret in secrets:
        for form in {secret, unquote(secret)} - {""}:
            text = text.replace(form, _MASK)
    text = _URL_CREDENTIALS.sub(rf"\1{_MASK}@", text)
    return _QUERY_SECRETS.sub(rf"\1{_MASK}", text)


def cap(text: str, limit_bytes: int = MAX_DETAIL_BYTES) -> str:
    """`text` cut in the middle to at most `limit_bytes` of UTF-8: uv's first and last lines say the most."""
    data = text.encode("utf-8", "replace")
    if len(data) <= limit_bytes:
        return text
    note = f"\n[... {len(data) - limit_bytes} bytes or more left out ...]\n".encode()
    half = (limit_bytes - len(note)) // 2
    return (data[:half] + note + data[-half:]).decode("utf-8", "ignore")


def _subject(text: str) -> str:
    """The requirement that uv named, or a phrase that fits in its place."""
    for pattern in _SUBJECTS:
        if match := pattern.search(text):
            return match.group(1)
    return "a requirement"


def _place(text: str) -> str:
    """The address that did not answer, in brackets; empty if uv named none."""
    match = _FETCHED.search(text)
    return f" ({match.group(1)})" if match else ""


def _reason(text: str) -> str:
    """uv's explanation on one line: the deepest cause of a chain, or the whole paragraph of a resolver's reasoning."""
    paragraphs: list[str] = []
    for line in text.splitlines():
        if not line.strip() or line.startswith("hint:"):
            if paragraphs:
                break
            continue
        starts = line.startswith(("error:", "  cause:")) or not paragraphs
        stripped = re.sub(r"^\s*(?:error|cause):\s*", "", line).strip()
        if starts:
            paragraphs.append(stripped)
        else:
            paragraphs[-1] += " " + stripped
    if not paragraphs:
        return "it said nothing"
    reason = _CONCLUSION.sub("", " ".join(paragraphs[-1].split())).rstrip(".")
    return reason if len(reason) <= MAX_REASON_CHARACTERS else reason[:MAX_REASON_CHARACTERS] + "..."
