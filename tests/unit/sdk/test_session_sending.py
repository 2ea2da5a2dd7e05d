"""The sending half of a session: bytes that the scheduler has lost, or that it speaks of too late."""

import pytest

from keepwarm_wire.messages import (
    ClientBeatReply,
    DeclareFunction,
    PayloadChunk,
    PayloadCredit,
    PayloadOffer,
    PayloadStored,
    Submit,
)
from support.driven_session import Driven

LARGE = 65_537


@pytest.fixture
def driven() -> Driven:
    return Driven().open()


def test_a_body_that_the_scheduler_has_lost_is_handed_over_again(driven: Driven) -> None:
    """It may have waited for its first call longer than a scheduler keeps what nothing refers to."""
    function = driven.declare(b"b" * LARGE)
    driven.call(b"1", function)
    [offer] = driven.sent(PayloadOffer)
    driven.get(PayloadStored(offer.payload_id))
    assert [submit.call_number for submit in driven.sent(Submit)] == [1]
    driven.get(PayloadCredit(offer.payload_id, 0, 0))
    driven.call(b"2", function)
    assert [type(message) for message in driven.out()] == [PayloadOffer]
    driven.get(PayloadStored(offer.payload_id))
    assert [type(message) for message in driven.out()] == [DeclareFunction, Submit]
    driven.get(ClientBeatReply(1, (1,)))
    assert [submit.call_number for submit in driven.sent(Submit)] == [1]


def test_arguments_that_the_scheduler_has_lost_are_handed_over_again(driven: Driven) -> None:
    driven.call(b"x" * LARGE)
    [offer] = driven.sent(PayloadOffer)
    driven.get(PayloadStored(offer.payload_id))
    [submit] = driven.sent(Submit)
    driven.get(PayloadCredit(offer.payload_id, 0, 0))
    assert driven.sent(PayloadOffer) == [offer]
    driven.get(PayloadStored(offer.payload_id))
    assert driven.sent(Submit) == [submit]
    assert driven.session.submitted_calls == 1


def test_a_late_word_of_lacking_bytes_does_not_disturb_their_upload(driven: Driven) -> None:
    """It answers a message from before a restart, which the hello to the new scheduler has overtaken."""
    driven.call(b"1", driven.declare(b"b" * LARGE))
    [offer] = driven.sent(PayloadOffer)
    driven.get(PayloadCredit(offer.payload_id, 0, 0))
    assert not driven.sent(PayloadOffer)
    driven.get(PayloadCredit(offer.payload_id, 0, LARGE), PayloadCredit(offer.payload_id, 0, 0))
    assert [(chunk.offset, len(chunk.data)) for chunk in driven.sent(PayloadChunk)] == [(0, LARGE)]
    driven.get(PayloadStored(offer.payload_id))
    assert driven.sent(Submit)
    assert not driven.completions()
