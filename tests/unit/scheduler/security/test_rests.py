"""How long a key rests after a connection of it was hung up on."""

from hypothesis import given
from hypothesis import strategies as st

from keepwarm.transport import HANDSHAKE_MS, HANDSHAKES_FAILED_MAX
from keepwarm_scheduler.security.rests import FORGOTTEN_NS, REST_FIRST_NS, REST_FIRST_OF_AGENTS_NS, REST_MAX_NS, Rests


def test_who_was_never_hung_up_on_does_not_rest() -> None:
    assert Rests().until_ns("a", 0) is None


def test_a_rest_ends_when_it_is_over() -> None:
    rests = Rests()
    assert rests.begin("a", 5) == REST_FIRST_NS
    assert rests.until_ns("a", 5 + REST_FIRST_NS - 1) == 5 + REST_FIRST_NS
    assert rests.until_ns("a", 5 + REST_FIRST_NS) is None
    assert rests.until_ns("b", 5) is None


def test_each_rest_soon_after_another_is_twice_as_long_up_to_a_bound() -> None:
    rests, now_ns, lengths_ns = Rests(), 0, []
    for _ in range(7):
        lengths_ns.append(rests.begin("a", now_ns, REST_FIRST_OF_AGENTS_NS))
        now_ns += lengths_ns[-1]
    assert lengths_ns == [REST_FIRST_OF_AGENTS_NS * factor for factor in (1, 2, 4, 8, 16, 32, 32)]
    assert lengths_ns[-1] == REST_MAX_NS


def test_connections_that_are_hung_up_on_together_are_one_rest() -> None:
    rests = Rests()
    assert [rests.begin("a", now_ns) for now_ns in range(5)] == [REST_FIRST_NS] * 5
    assert rests.until_ns("a", 5) == REST_FIRST_NS


def test_a_rest_long_ago_is_forgotten() -> None:
    rests = Rests()
    rests.begin("a", 0)
    assert rests.begin("b", REST_FIRST_NS + FORGOTTEN_NS) == REST_FIRST_NS
    assert rests.begin("a", REST_FIRST_NS + FORGOTTEN_NS) == REST_FIRST_NS


def test_who_has_rested_is_known_until_that_is_forgotten() -> None:
    rests = Rests()
    assert not rests.is_known("a", 0)
    rests.begin("a", 0)
    assert rests.is_known("a", 0)
    assert rests.is_known("a", REST_FIRST_NS + FORGOTTEN_NS - 1)
    assert not rests.is_known("b", 0)
    assert not rests.is_known("a", REST_FIRST_NS + FORGOTTEN_NS)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2 * FORGOTTEN_NS)), max_size=30))
def test_a_rest_lasts_as_long_as_was_said_and_ends_before_anybody_gives_up(steps: list[tuple[str, int]]) -> None:
    rests, now_ns = Rests(), 0
    for key, passed_ns in steps:
        now_ns += passed_ns
        was_resting = rests.until_ns(key, now_ns)
        length_ns = rests.begin(key, now_ns)
        assert REST_FIRST_NS <= length_ns <= REST_MAX_NS < HANDSHAKES_FAILED_MAX * HANDSHAKE_MS * 1_000_000
        assert rests.until_ns(key, now_ns) == (was_resting or now_ns + length_ns)
        assert rests.until_ns(key, now_ns + length_ns) is None
