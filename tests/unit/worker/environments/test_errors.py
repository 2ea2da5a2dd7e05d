"""uv's words, as seen from uv 0.13, and the failure each must become."""

from __future__ import annotations

import pickle

import pytest

from keepwarm_worker.environments import errors
from keepwarm_worker.environments.errors import EnvironmentFailure, cap, classify, is_cache_miss, scrub

UNSATISFIABLE = """error: No solution found when resolving dependencies
  cause: Because there is no version of requests==99.99 and you require requests==99.99, we can conclude that your \
requirements are unsatisfiable.
"""
PYTHON_TOO_OLD = """error: No solution found when resolving dependencies
  cause: Because the current Python version (3.8.18) does not satisfy Python>=3.10 and requests>=2.33.0 depends on \
Python>=3.10, we can conclude that requests>=2.33.0 cannot be used.
         And because you require requests>=2.33, we can conclude that your requirements are unsatisfiable.
"""
UNAUTHORIZED = """error: No solution found when resolving dependencies
  cause: Because idna was not found in the package registry and you require idna, we can conclude that your \
requirements are unsatisfiable.

hint: An index URL (http://127.0.0.1:8401/simple) could not be queried due to a lack of valid authentication \
credentials (401 Unauthorized)
"""
SOURCE_ONLY = """error: No solution found when resolving dependencies
  cause: Because docopt==0.6.2 has no usable wheels and you require docopt==0.6.2, we can conclude that your \
requirements are unsatisfiable.

hint: Wheels are required for `docopt` because building from source is disabled for all packages
"""
REFUSED = """error: Request failed after 1 retry in 1.8s
  cause: Failed to fetch: http://127.0.0.1:9/simple/idna/
  cause: client error (Connect)
  cause: tcp connect error
  cause: Connection refused (os error 111)
"""
HASH_MISMATCH = """error: Failed to download `idna==3.20`
  cause: Hash mismatch for `idna==3.20`

         Expected:
           sha256:a7db

         Computed:
           sha256:ab7a
"""
FULL_WHILE_DOWNLOADING = """error: Failed to download `urllib3==2.8.0`
  cause: failed to write to file `/cache/x`: No space left on device (os error 28)
"""
FULL_WHILE_PROBING = """error: Failed to inspect Python interpreter from provided path at `v1/bin/python`
  cause: Failed to query Python interpreter
  cause: failed to write to file `/cache/get_interpreter_info.py`: No space left on device (os error 28)
"""
MISSING_FILE = """error: Failed to download `foo @ http://127.0.0.1:8404/foo-1.0-py3-none-any.whl`
  cause: Failed to fetch: http://127.0.0.1:8404/foo-1.0-py3-none-any.whl
  cause: HTTP status client error (404 Not Found) for url (http://127.0.0.1:8404/foo-1.0-py3-none-any.whl)
"""
FORBIDDEN_FILE = """error: Failed to download `foo @ http://127.0.0.1:8401/foo-1.0-py3-none-any.whl`
  cause: Failed to fetch: http://127.0.0.1:8401/foo-1.0-py3-none-any.whl
  cause: HTTP status client error (401 Unauthorized) for url (http://127.0.0.1:8401/foo-1.0-py3-none-any.whl)
"""
NO_HASH = (
    "error: In `--require-hashes` mode, all requirements must have a hash, but none were provided for: idna==3.20\n"
)
NO_PYTHON = "error: No interpreter found at path `/nonexistent/python3`\n"
UNREADABLE = "error: Couldn't parse requirement in `-` at position 0\n  cause: Expected one of `@`, found `b`\n"
BUSY_INDEX = """error: Request failed after 1 retry in 1.4s
  cause: Failed to fetch: http://127.0.0.1:8500/simple/idna/
  cause: HTTP status server error (503 Service Unavailable) for url (http://127.0.0.1:8500/simple/idna/)
"""
NOT_CACHED = """error: No solution found when resolving dependencies
  cause: Because idna was not found in the cache and you require idna==3.20, we can conclude that your requirements \
are unsatisfiable.

hint: Packages were unavailable because the network was disabled.
"""
OUT_OF_DESCRIPTORS = """error: Failed to fetch: `http://127.0.0.1:8404/idna/`
  cause: failed to open file `/cache/x`: Too many open files (os error 24)
"""
READ_ONLY = "error: failed to create directory `/cache/x`: Read-only file system (os error 30)"
NO_THREADS = """thread 'main' panicked at src/lib.rs:1:1:
failed to spawn thread: Os { code: 11, kind: WouldBlock, message: "Resource temporarily unavailable" }
"""
NOT_CACHED_FILE = """error: Failed to download `idna==3.20`
  cause: Network connectivity is disabled, but the requested data wasn't found in the cache: https://host/idna.whl
"""


@pytest.mark.parametrize(
    ("stderr", "kind", "named", "retryable"),
    [
        (UNSATISFIABLE, errors.REQUIREMENTS_UNSATISFIABLE, "no version of requests==99.99", False),
        (PYTHON_TOO_OLD, errors.REQUIREMENTS_UNSATISFIABLE, "3.8.18", False),
        (MISSING_FILE, errors.REQUIREMENTS_UNSATISFIABLE, "foo @ http://127.0.0.1:8404", False),
        (UNAUTHORIZED, errors.CREDENTIALS_REFUSED, "credentials", False),
        (FORBIDDEN_FILE, errors.CREDENTIALS_REFUSED, "credentials", False),
        (SOURCE_ONLY, errors.BUILD_FORBIDDEN, "docopt==0.6.2", False),
        (REFUSED, errors.INDEX_UNREACHABLE, "Connection refused", True),
        (BUSY_INDEX, errors.INDEX_UNREACHABLE, "503", True),
        (NOT_CACHED, errors.INDEX_UNREACHABLE, "idna", True),
        (HASH_MISMATCH, errors.INTEGRITY, "idna==3.20", False),
        (NO_HASH, errors.INTEGRITY, "idna==3.20", False),
        (FULL_WHILE_DOWNLOADING, errors.DISK_FULL, "disk space", True),
        (FULL_WHILE_PROBING, errors.DISK_FULL, "disk space", True),
        (OUT_OF_DESCRIPTORS, errors.INTERNAL, "Too many open files", True),
        (READ_ONLY, errors.INTERNAL, "Read-only file system", True),
        (NO_THREADS, errors.INTERNAL, "out of order, or short of something that install needs", True),
        (NO_PYTHON, errors.PYTHON_MISSING, "/nonexistent/python3", True),
        (UNREADABLE, errors.REQUIREMENTS_MALFORMED, "Expected one of", False),
        ("thread 'main' panicked\n", errors.INTERNAL, "exit status 2", False),
        ("", errors.INTERNAL, "it said nothing", False),
    ],
)
def test_each_phrase_of_uv_becomes_one_kind_and_names_the_culprit(
    stderr: str, kind: str, named: str, retryable: bool
) -> None:
    failure = classify(2, stderr, "install")
    assert (failure.kind, failure.retryable) == (kind, retryable)
    assert named in failure.message
    assert "\n" not in failure.message
    assert failure.detail == stderr


def test_a_uv_killed_by_a_signal_may_be_tried_again() -> None:
    failure = classify(-9, "", "install")
    assert (failure.kind, failure.retryable) == (errors.INTERNAL, True)
    assert "signal 9" in failure.message


def test_only_a_cache_miss_sends_an_installation_online() -> None:
    assert is_cache_miss(NOT_CACHED)
    assert is_cache_miss(NOT_CACHED_FILE)
    assert not any(map(is_cache_miss, (UNSATISFIABLE, HASH_MISMATCH, FULL_WHILE_DOWNLOADING, REFUSED)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("see https://me:hunter2@host/simple now", "see https://***@host/simple now"),
        ("https://token@host/simple", "https://***@host/simple"),
        ("https://me:p@ss@host/simple", "https://***@host/simple"),
        ("git+ssh://me:pw@host/x", "git+ssh://***@host/x"),
        ("https://host/f.whl?X-Amz-Signature=abc&size=1", "https://host/f.whl?X-Amz-Signature=***&size=1"),
        ("https://host/f.whl?sig=abc)", "https://host/f.whl?sig=***)"),
        ("https://host/a@b.whl", "https://host/a@b.whl"),
        ("name @ https://host/x.whl", "name @ https://host/x.whl"),
    ],
)
def test_scrub_hides_credentials_and_nothing_else(text: str, expected: str) -> None:
    assert scrub(text) == expected


def test_scrub_hides_a_known_secret_in_its_encoded_and_plain_form() -> None:
    assert scrub("p%40ss and p@ss", ["p%40ss"]) == "*** and ***"


def test_message_and_detail_of_a_failure_are_scrubbed() -> None:
    failure = classify(2, REFUSED.replace("127.0.0.1:9", "me:hunter2@127.0.0.1:9"), "lock")
    assert "hunter2" not in failure.message + failure.detail + str(failure) + repr(failure)


def test_detail_is_capped_and_keeps_both_ends() -> None:
    failure = classify(1, "error: first line\n" + "\N{SNOWMAN}" * 100_000 + "\nlast line", "lock")
    assert len(failure.detail.encode()) <= errors.MAX_DETAIL_BYTES
    assert failure.detail.startswith("error: first line")
    assert failure.detail.endswith("last line")
    assert "left out" in failure.detail
    assert cap("short") == "short"


def test_a_long_explanation_does_not_make_a_long_message() -> None:
    failure = classify(1, f"error: No solution found\n  cause: Because {'x' * 5000}", "lock")
    assert len(failure.message) < errors.MAX_REASON_CHARACTERS + 100


def test_a_failure_survives_pickling() -> None:
    failure = classify(1, UNSATISFIABLE, "lock")
    copy = pickle.loads(pickle.dumps(failure))
    fields = ("kind", "message", "detail", "retryable")
    assert [getattr(copy, name) for name in fields] == [getattr(failure, name) for name in fields]


def test_a_failure_is_read_only_and_knows_its_kinds() -> None:
    with pytest.raises(AttributeError):
        EnvironmentFailure(errors.INTEGRITY, "m").kind = "other"  # type: ignore[misc]
    with pytest.raises(ValueError, match="not a kind"):
        EnvironmentFailure("bad luck", "m")
