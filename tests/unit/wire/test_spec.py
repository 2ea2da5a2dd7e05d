"""The canonical spec by example: spellings, refusals and their advice, golden hashes, stability across processes."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys

import pytest

from keepwarm_wire.spec import (
    REQUIREMENTS_MAX,
    SPEC_BYTES_MAX,
    RequirementError,
    Spec,
    SpecError,
    canonical_requirement,
    canonical_spec,
    environment_id,
    parse_spec,
    spec_key,
)

GOLDEN_REQUIREMENTS = ["Requests[Socks, use_chardet]>=2.0, <3", "numpy~=2.0; python_version>'3.8'", "six"]
GOLDEN_SPEC = (
    b'{"kind":"virtualenv","python":"3.11","requirements":["numpy~=2.0; python_version > \\"3.8\\"",'
    b'"requests[socks,use-chardet]<3,>=2","six"],"schema":1}'
)


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("requests", "requests"),
        (" requests ", "requests"),
        ("Flask_SQL.Alchemy", "flask-sql-alchemy"),
        ("requests[Socks,use_Chardet]", "requests[socks,use-chardet]"),
        ("a>=1.0,<2", "a<2,>=1"),
        ("a ( >=1 )", "a>=1"),
        ("a==2.0.0", "a==2"),
        ("a~=2.0", "a~=2.0"),
        ("a~=2.0.0", "a~=2.0.0"),
        ("a===2.0", "a===2.0"),
        ("a==2.0.*", "a==2.0.*"),
        ("a!=1.0,!=1", "a!=1"),
        ("a==1.0RC1", "a==1rc1"),
        ("a; python_version<'3.13'", 'a; python_version < "3.13"'),
        ("A @ https://index.example/A.whl", "a @ https://index.example/A.whl"),
        ("a @ git+ssh://git@e.org/a.git", "a @ git+ssh://git@e.org/a.git"),
        ("a @ file:///w/a.whl ; os_name=='nt'", 'a @ file:///w/a.whl ; os_name == "nt"'),
    ],
)
def test_one_spelling(written: str, canonical: str) -> None:
    """Every spelling has one canonical form, and that form is its own."""
    assert canonical_requirement(written) == canonical
    assert canonical_requirement(canonical) == canonical


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("-e x", "file:///"),
        ("--editable .", "file:///"),
        ("-r requirements.txt", "list of strings"),
        ("--index-url elsewhere", "configured on the cluster"),
        ("--no-deps", "options of pip"),
        ("./dir", "file:///"),
        ("/abs/x.whl", "file:///"),
        ("requests # why", "remove the comment"),
        ("# why", "remove the comment"),
        ("", "remove the empty string"),
        ("   ", "remove the empty string"),
        ("requests=2", '"=="'),
        ("requests==", "write it as in"),
        ("https://index.example/a.whl", "NAME @ URL"),
        ("git+https://index.example/a", "NAME @ URL"),
        ("a @ https://index.example/a.whl; os_name=='nt'", "leave a blank"),
        ("a\n--index-url elsewhere", "use a list"),
        ("ünï", "write it as in"),
    ],
)
def test_what_is_no_requirement_is_refused_with_advice(text: str, advice: str) -> None:
    """The error names the text and says what to write instead."""
    with pytest.raises(RequirementError) as caught:
        canonical_requirement(text)
    assert repr(text) in str(caught.value)
    assert advice in str(caught.value)


@pytest.mark.parametrize(
    "text", ["a @ https://me:hunter2@e.org/a", "https://me:hunter2@e.org/a", "a @ x://me:hunter2@b;c"]
)
def test_a_password_is_refused_and_not_repeated(text: str) -> None:
    """A secret must neither enter a spec nor the error message nor its causes."""
    with pytest.raises(RequirementError, match="password") as caught:
        canonical_requirement(text)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_not_a_string() -> None:
    """A requirement object is refused by name of its type; a bare string of requirements is refused with the fix."""
    with pytest.raises(RequirementError, match="is a int"):
        canonical_requirement(3)  # type: ignore[arg-type]
    with pytest.raises(RequirementError, match=r"\['requests'\]"):
        canonical_spec("requests", "3.11")


def test_golden() -> None:
    """These bytes and hashes are what other releases compute: they change only together with SPEC_SCHEMA."""
    spec = canonical_spec(GOLDEN_REQUIREMENTS, "3.11")
    assert spec == GOLDEN_SPEC
    assert spec_key(spec).hex() == hashlib.sha256(GOLDEN_SPEC).hexdigest()
    assert spec_key(spec).hex() == "a409b8619e80cd8168387f77fcb31ae551a25beedbca88fbb4acac90094c95f1"
    assert (
        environment_id("six==1.17.0\n", "3.11", "linux-x86_64-glibc")
        == "8b48e161f162220ba80f689fbd050f9d62f50ed29d1d2c0779bc38b9a87b734b"
    )


def test_key_is_the_same_in_other_processes() -> None:
    """Neither the process nor its hash seed moves the key."""
    program = (
        "from keepwarm_wire.spec import canonical_spec, spec_key;"
        f"print(spec_key(canonical_spec({GOLDEN_REQUIREMENTS!r}, '3.11')).hex())"
    )
    keys = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("0", "1", "4242")
    }
    assert keys == {spec_key(GOLDEN_SPEC).hex()}


def test_packaging_is_imported_only_when_needed() -> None:
    """No requirement, or bare names only, must not cost the import."""
    program = (
        "import sys; from keepwarm_wire.spec import canonical_spec, parse_spec;"
        "parse_spec(canonical_spec([], '3.11')); parse_spec(canonical_spec(['Zope.Interface'], '3.11'));"
        "assert 'packaging' not in sys.modules; canonical_spec(['a>1'], '3.11'); assert 'packaging' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_environment_id_separates_its_fields() -> None:
    """Moving text from one field to its neighbour makes another id, and so does each field by itself."""
    inputs = [
        ("lock", "3.11", "linux"),
        ("lock", "3.1", "linux"),
        ("lock", "3.11", "linuxc"),
        ("3.11lock", "", "linux"),
    ]
    ids = {environment_id(*fields) for fields in inputs}
    assert len(ids) == len(inputs)
    assert all(len(name) == 64 for name in ids)


def test_parse_returns_what_was_asked_for() -> None:
    """A spec survives the wire."""
    assert parse_spec(canonical_spec(["six", "A>1.0"], "3.12")) == Spec(("a>1", "six"), "3.12", "virtualenv")


def document(**changes: object) -> bytes:
    """Return otherwise canonical spec bytes with some fields replaced; None removes one."""
    fields = {"kind": "virtualenv", "python": "3.11", "requirements": ["six"], "schema": 1, **changes}
    kept = {name: value for name, value in fields.items() if value is not None}
    return json.dumps(kept, sort_keys=True, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 50_000, "not JSON"),
        (b"[]", "not a list"),
        (b" " * (SPEC_BYTES_MAX + 1), "larger than allowed"),
        (document(schema=2), "schema 2"),
        (document(schema=None), "schema None"),
        (document(python="3"), "minor version"),
        (document(python="3.11.2"), "minor version"),
        (document(python=3.11), "'python' of a spec is a string"),
        (document(kind="docker"), "kind 'docker' is unknown"),
        (document(kind=None), "'kind' of a spec is a string"),
        (document(requirements="six"), "list of strings"),
        (document(requirements=[1]), "list of strings"),
        (document(requirements=["--index-url elsewhere"]), "bad requirement"),
        (document(requirements=["b", "a"]), "not in canonical form"),
        (document(requirements=["a", "a"]), "not in canonical form"),
        (document(requirements=["A"]), "not in canonical form"),
        (document(extra=1), "not in canonical form"),
        (document() + b" ", "not in canonical form"),
    ],
)
def test_parse_refuses(spec: bytes, message: str) -> None:
    """Anything but canonical bytes is refused with the reason."""
    with pytest.raises(SpecError, match=message):
        parse_spec(spec)


def test_limits() -> None:
    """A spec is bounded in number and in bytes."""
    with pytest.raises(SpecError, match="more than a spec may hold"):
        canonical_spec([f"p{number}" for number in range(REQUIREMENTS_MAX + 1)], "3.11")
    with pytest.raises(SpecError, match="larger than allowed"):
        canonical_spec(["a" * SPEC_BYTES_MAX], "3.11")
