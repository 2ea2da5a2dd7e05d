"""Laws of the canonical spec: whatever pip treats alike has one key, whatever it tells apart has two."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from keepwarm_wire.spec import RequirementError, canonical_requirement, canonical_spec, parse_spec, spec_key

names = st.from_regex(r"[A-Za-z][A-Za-z0-9]{0,3}([-_.]{1,2}[A-Za-z0-9]{1,3}){0,2}", fullmatch=True)
versions = st.lists(st.integers(0, 12), min_size=2, max_size=4).map(lambda parts: ".".join(map(str, parts)))
specifiers = st.one_of(
    st.builds("{}{}".format, st.sampled_from(["==", "!=", "<=", ">=", "<", ">", "~="]), versions),
    st.builds("{}{}.*".format, st.sampled_from(["==", "!="]), versions),
)
markers = st.sampled_from(
    ["", "python_version < '3.13'", 'os_name=="nt" or extra == "X"', "platform_machine != 'arm64'"]
)


@st.composite
def requirements(draw: st.DrawFn) -> str:
    """Draw a valid requirement in some untidy spelling."""
    text = draw(names)
    extras = draw(st.lists(names, max_size=3))
    if extras:
        text += f"[{draw(st.sampled_from([',', ', ', ' ,'])).join(extras)}]"
    blank = draw(st.sampled_from(["", " "]))
    written = draw(st.lists(specifiers, max_size=3))
    if draw(st.booleans()):
        written.append(f"==={draw(versions)}")  # last, for it swallows a comma that follows it
    text += blank + draw(st.sampled_from([",", ", "])).join(written)
    marker = draw(markers)
    return text + (f" ; {marker}" if marker else "")


@given(requirements())
def test_canonical_form_is_a_fixed_point(text: str) -> None:
    """The canonical form is a requirement, and its own canonical form."""
    canonical = canonical_requirement(text)
    assert canonical_requirement(canonical) == canonical


@given(requirements())
def test_canonical_form_means_the_same(text: str) -> None:
    """Nothing is lost: name, extras, the set of versions let in, and the marker are those of the text."""
    before, after = Requirement(text), Requirement(canonical_requirement(text))
    assert canonicalize_name(before.name) == after.name
    assert {canonicalize_name(extra) for extra in before.extras} == after.extras
    assert str(before.marker) == str(after.marker)
    for version in ("0.0", "1.2", "1.2.0", "1.2.1", "2.0.0", "12.0"):
        assert before.specifier.contains(version) == after.specifier.contains(version)


@given(names)
def test_bare_names_need_no_parser_to_agree_with_it(name: str) -> None:
    """The short way for bare names gives what the long way gives."""
    assert canonical_requirement(name) == canonical_requirement(f" {name}") == canonicalize_name(name)


@given(st.lists(requirements(), max_size=5), st.randoms(use_true_random=False))
def test_order_case_and_repetition_do_not_matter(texts: list[str], random: object) -> None:
    """Shuffled and repeated requirements make the same key."""
    shuffled = texts + texts[:2]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert spec_key(canonical_spec(texts, "3.11")) == spec_key(canonical_spec(shuffled, "3.11"))


@given(st.lists(requirements(), max_size=5))
def test_a_spec_survives_the_wire(texts: list[str]) -> None:
    """Parsing gives back the canonical requirements, and building from them the same bytes."""
    spec = canonical_spec(texts, "3.12")
    parsed = parse_spec(spec)
    assert canonical_spec(parsed.requirements, parsed.python, parsed.kind) == spec
    assert set(parsed.requirements) == {canonical_requirement(text) for text in texts}


@given(names, versions, versions)
def test_other_versions_make_other_keys(name: str, one: str, other: str) -> None:
    """Two pins share a key exactly when they pin the same version."""
    same = Requirement(f"x=={one}").specifier.contains(other)
    keys = {spec_key(canonical_spec([f"{name}=={version}"], "3.11")) for version in (one, other)}
    assert (len(keys) == 1) == same


@given(st.text(max_size=30))
def test_any_text_is_canonical_or_refused(text: str) -> None:
    """No text crashes it, and it accepts nothing that the standard's parser does not."""
    try:
        canonical = canonical_requirement(text)
    except RequirementError:
        return
    try:
        Requirement(text)
    except InvalidRequirement:  # pragma: no cover
        raise AssertionError(f"{text!r} was accepted as {canonical!r}") from None
