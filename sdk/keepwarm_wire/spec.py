"""The canonical spec: what an environment was asked to be, and the hashes that name it.

Owns: one spelling per requirement, one byte string per spec, the spec key (the *requirement hash* placement looks for)
and the environment id (the name of a directory on a node).

Rules:
- Two specs that pip would treat alike have the same bytes, in every process, on every platform, for every hash seed.
- A spec holds no secret and no platform. Bytes from a peer are checked to be canonical before use.
- `packaging` costs 30 ms to import: it is imported by the first requirement that is more than a bare name.

Never: reads a file, a network or the environment. Changing a rule here changes keys: raise `SPEC_SCHEMA` with it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from keepwarm_wire.fields import INLINE_BYTES_MAX

if TYPE_CHECKING:
    from packaging.requirements import Requirement
    from packaging.specifiers import Specifier

__all__ = [
    "RequirementError",
    "Spec",
    "SpecError",
    "canonical_requirement",
    "canonical_spec",
    "environment_id",
    "parse_spec",
    "spec_key",
]

SPEC_SCHEMA: Final = 1
ENVIRONMENT_LAYOUT: Final = 1
KINDS: Final = frozenset({"virtualenv"})
REQUIREMENTS_MAX: Final = 1_000
SPEC_BYTES_MAX: Final = INLINE_BYTES_MAX

_PYTHON_MINOR = re.compile(r"[1-9][0-9]*\.(0|[1-9][0-9]*)", re.ASCII)
_BARE_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", re.ASCII)
_NAME_SEPARATORS = re.compile(r"[-_.]+")
_URL_PASSWORD = re.compile(r"://[^/@\s]*:[^/@\s]+@")


class RequirementError(ValueError):
    """A requirement that cannot stand in a spec. The message names it and says what to write instead."""


class SpecError(ValueError):
    """Spec bytes that are not a canonical spec this version understands; the peer that sent them is wrong or newer."""


class Spec(NamedTuple):
    """An environment as asked for: canonical requirements, python as "3.11", and the kind of environment."""

    requirements: tuple[str, ...]
    python: str
    kind: str


def canonical_requirement(text: str) -> str:
    """Return the one spelling of a PEP 508 requirement.

    Name and extras are normalised, specifiers sorted and deduplicated, versions written without trailing zeros (`~=`
    keeps them, they mean something there; `===` and `.*` stay as written), quotes and blanks of markers made equal.

    >>> canonical_requirement("Flask_SQLAlchemy [B,a] >=2.0, <3")
    'flask-sqlalchemy[a,b]<3,>=2'

    Raises RequirementError for what is no requirement (options, paths, comments) and for a URL holding a password.
    """
    if not isinstance(text, str):
        raise RequirementError(f"requirement {text!r} is a {type(text).__name__}; write each requirement as a string")
    if _BARE_NAME.fullmatch(text):
        return _canonical_name(text)
    if _URL_PASSWORD.search(text):
        # The text is left out on purpose: this message ends up in logs.
        name = text.partition(" @")[0].partition(":")[0]
        raise RequirementError(
            f"the URL of requirement {name!r} holds a password, which would travel and be stored with the spec; "
            "give the credentials to the cluster as a named index instead"
        )
    from packaging.requirements import InvalidRequirement, Requirement

    if "\n" in text or "\r" in text:
        raise RequirementError(f"requirement {text!r} has more than one line; {_advice(text)}")
    try:
        requirement = Requirement(text)
    except InvalidRequirement as error:
        raise RequirementError(f"requirement {text!r} cannot be used; {_advice(text)}") from error
    return _render(requirement)


def canonical_spec(requirements: Iterable[str], python_minor: str, kind: str = "virtualenv") -> bytes:
    """Return the canonical bytes of a spec: JSON with sorted keys, no blanks, ASCII only, and the schema version.

    Raises RequirementError for a bad requirement, SpecError for a bad python or kind, or too much of anything.
    """
    if not _PYTHON_MINOR.fullmatch(python_minor):
        raise SpecError(f'python {python_minor!r} is not a minor version; write it like "3.11"')
    if kind not in KINDS:
        raise SpecError(f"environment kind {kind!r} is unknown; known kinds: {', '.join(sorted(KINDS))}")
    if isinstance(requirements, str):
        raise RequirementError(f"requirements {requirements!r} is one string; write a list: [{requirements!r}]")
    canonical = sorted({canonical_requirement(text) for text in requirements})
    if len(canonical) > REQUIREMENTS_MAX:
        raise SpecError(f"{len(canonical)} requirements are more than a spec may hold ({REQUIREMENTS_MAX})")
    document = {"kind": kind, "python": python_minor, "requirements": canonical, "schema": SPEC_SCHEMA}
    spec = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")
    if len(spec) > SPEC_BYTES_MAX:
        raise SpecError(f"a spec of {len(spec)} bytes is larger than allowed ({SPEC_BYTES_MAX})")
    return spec


def spec_key(spec: bytes) -> bytes:
    """Return the spec key (requirement hash): the 32-byte sha256 of the canonical spec."""
    return hashlib.sha256(spec).digest()


def environment_id(lock_text: str, python_minor: str, platform: str) -> str:
    """Return the environment id: 64 hex digits over layout version, platform, interpreter and the lock's exact text.

    Every field is preceded by its length, so that no two different inputs hash the same bytes.
    """
    digest = hashlib.sha256()
    for field in (str(ENVIRONMENT_LAYOUT), platform, f"cpython-{python_minor}", lock_text):
        data = field.encode()
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()


def parse_spec(spec: bytes) -> Spec:
    """Return the spec that canonical bytes stand for; raise SpecError for any other bytes.

    Bytes that mean a spec but spell it otherwise are refused too: they would get a key of their own, and a requirement
    that is no requirement (`--index-url ...`) must never reach a node's installer.
    """
    if len(spec) > SPEC_BYTES_MAX:
        raise SpecError(f"a spec of {len(spec)} bytes is larger than allowed ({SPEC_BYTES_MAX})")
    try:
        document = json.loads(spec)
    except (ValueError, RecursionError) as error:
        raise SpecError("a spec is not JSON text") from error
    if not isinstance(document, dict):
        raise SpecError(f"a spec is a JSON object, not a {type(document).__name__}")
    if document.get("schema") != SPEC_SCHEMA:
        raise SpecError(f"spec schema {document.get('schema')!r} is not {SPEC_SCHEMA}; the sender runs another version")
    parsed = Spec(_requirements_of(document), _text_of(document, "python"), _text_of(document, "kind"))
    try:
        canonical = canonical_spec(parsed.requirements, parsed.python, parsed.kind)
    except RequirementError as error:
        raise SpecError(f"a spec holds a bad requirement: {error}") from error
    if canonical != bytes(spec):
        raise SpecError("a spec is not in canonical form, so its key would not be shared; build it with canonical_spec")
    return parsed


def _requirements_of(document: dict[str, Any]) -> tuple[str, ...]:
    requirements = document.get("requirements")
    if not isinstance(requirements, list) or not all(isinstance(text, str) for text in requirements):
        raise SpecError("field 'requirements' of a spec is a list of strings")
    return tuple(requirements)


def _text_of(document: dict[str, Any], field: str) -> str:
    value = document.get(field)
    if not isinstance(value, str):
        raise SpecError(f"field {field!r} of a spec is a string, not {type(value).__name__}")
    return value


def _canonical_name(name: str) -> str:
    return _NAME_SEPARATORS.sub("-", name).lower()


def _render(requirement: Requirement) -> str:
    extras = sorted({_canonical_name(extra) for extra in requirement.extras})
    text = _canonical_name(requirement.name)
    if extras:
        text += f"[{','.join(extras)}]"
    if requirement.url:
        text += f" @ {requirement.url}"
    else:
        specifiers = {_canonical_specifier(specifier) for specifier in requirement.specifier}
        # `===` comes last: its version is any text up to a blank, a comma included.
        text += ",".join(sorted(specifiers, key=lambda written: (written.startswith("==="), written)))
    if requirement.marker:
        # A blank before the semicolon ends a URL; elsewhere none is needed.
        text += f"{' ' if requirement.url else ''}; {requirement.marker}"
    return text


def _canonical_specifier(specifier: Specifier) -> str:
    from packaging.utils import canonicalize_version

    operator, version = specifier.operator, specifier.version
    if operator == "===" or version.endswith(".*"):
        return f"{operator}{version}"
    return f"{operator}{canonicalize_version(version, strip_trailing_zero=operator != '~=')}"


_WHEEL_ADVICE = 'build a wheel and write "NAME @ file:///absolute/path/NAME.whl"'

# First match wins: (does this explain the text?, what to write instead).
_ADVICE: Final[tuple[tuple[Callable[[str], bool], str], ...]] = (
    (lambda text: not text.strip(), "remove the empty string"),
    (lambda text: "\n" in text or "\r" in text, "write one requirement a string: use a list"),
    (
        lambda text: text.startswith(("-e", "--editable")),
        f"an editable install is on one machine only: {_WHEEL_ADVICE}",
    ),
    (lambda text: text.startswith(("-r", "--requirement")), "write the lines of that file as a list of strings"),
    (
        lambda text: text.startswith(("-i", "--index-url", "--extra-index-url", "--find-links")),
        "indexes are configured on the cluster, by name; write only the requirement",
    ),
    (lambda text: text.startswith("-"), "options of pip are not requirements; write only the requirement"),
    (lambda text: text.startswith("#") or " #" in text, "remove the comment"),
    (lambda text: " @ " in text and ";" in text, 'leave a blank between the URL and ";"'),
    (lambda text: text.startswith(("git+", "hg+", "http://", "https://", "file:")), 'write "NAME @ URL"'),
    (
        lambda text: text.startswith((".", "/", "~")) or text.endswith((".whl", ".gz", ".zip")),
        f"a path means nothing on another machine: {_WHEEL_ADVICE}",
    ),
    (
        lambda text: re.search(r"[^=<>!~]=[^=]", text) is not None,
        'versions are pinned with "==", as in "requests==2.32"',
    ),
)


def _advice(text: str) -> str:
    for explains, advice in _ADVICE:
        if explains(text):
            return advice
    return 'write it as in "requests>=2.31" or "requests[socks]==2.32; python_version < \'3.13\'"'
