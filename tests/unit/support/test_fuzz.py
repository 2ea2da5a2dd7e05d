"""The fuzzing command: it counts what it has run, can be continued, and reports what a broken decoder raises."""

import pytest

from keepwarm_wire.codec import ProtocolError
from support import fuzz


def test_it_says_how_many_frames_ran_and_where_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert fuzz.main(["--frames", "20000", "--first", "30000"]) == 0
    out = capsys.readouterr().out
    assert "20,000 frames" in out
    assert "go on with --first 50000" in out


def test_a_block_is_the_same_at_every_run_and_unlike_the_next() -> None:
    assert fuzz.batter(7, 3) == fuzz.batter(7, 3)
    assert fuzz.batter(7, 3).refused != fuzz.batter(7, 4).refused


def test_what_a_broken_decoder_raises_fails_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(frame: bytes) -> list[object]:
        if frame[:1] == b"\x91":
            raise IndexError
        raise ProtocolError

    monkeypatch.setattr(fuzz, "decode_frame", broken)
    assert fuzz.main(["--frames", "10000"]) == 1
    assert "block 0, frame " in capsys.readouterr().out


def test_a_message_that_does_not_survive_the_journey_fails_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "decode_frame", lambda frame: [object(), frame])
    with pytest.raises(fuzz.UnexpectedError, match="seed 1, block 0, frame 0"):
        fuzz.batter(1, 0)
