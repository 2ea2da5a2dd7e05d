"""Output of calls: whole lines with their prefix, whatever the pieces."""

import io
import sys

import pytest

from keepwarm.printing import PARTIAL_CHARACTERS_MAX, OutputPrinter
from keepwarm_wire.messages import Output


def piece(data: bytes, *, call: int = 1, stream: int = 1, dropped: int = 0) -> Output:
    return Output(call, "n1", stream, data, dropped)


def test_a_partial_line_waits_for_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    printer = OutputPrinter()
    printer.output("f", piece(b"on"))
    assert capsys.readouterr().out == ""
    printer.output("f", piece(b"e\ntwo"))
    assert capsys.readouterr().out == "(f on n1) one\n"
    printer.finish(1)
    assert capsys.readouterr().out == "(f on n1) two\n"


def test_calls_and_streams_do_not_mix(capsys: pytest.CaptureFixture[str]) -> None:
    printer = OutputPrinter()
    printer.output("f", piece(b"a", call=1))
    printer.output("f", piece(b"b", call=2))
    printer.output("f", piece(b"c", call=1, stream=2))
    printer.finish(1)
    printer.finish(2)
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("(f on n1) a\n(f on n1) b\n", "(f on n1) c\n")


def test_a_character_split_between_pieces_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    printer = OutputPrinter()
    encoded = "ü\n".encode()
    printer.output("f", piece(encoded[:1]))
    printer.output("f", piece(encoded[1:]))
    assert capsys.readouterr().out == "(f on n1) ü\n"


def test_bytes_that_are_no_text_are_shown_as_replacements(capsys: pytest.CaptureFixture[str]) -> None:
    OutputPrinter().output("f", piece(b"\xff\r\n"))
    assert capsys.readouterr().out == "(f on n1) \ufffd\n"


def test_the_number_of_dropped_bytes_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    printer = OutputPrinter()
    printer.output("f", piece(b"begin"))
    printer.output("f", piece(b"end\n", dropped=123))
    assert capsys.readouterr().out.splitlines() == [
        "(f on n1) begin", "(f on n1) ... 123 bytes dropped ...", "(f on n1) end",
    ]  # fmt: skip


def test_an_endless_line_is_shown_in_pieces(capsys: pytest.CaptureFixture[str]) -> None:
    OutputPrinter().output("f", piece(b"x" * (PARTIAL_CHARACTERS_MAX + 1)))
    assert len(capsys.readouterr().out) > PARTIAL_CHARACTERS_MAX


def test_a_stream_that_cannot_take_it_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    for stream in (closed, None, ascii_only):
        monkeypatch.setattr(sys, "stdout", stream)
        OutputPrinter().output("f", piece("ü\n".encode()))
    raw = ascii_only.buffer
    assert isinstance(raw, io.BytesIO)
    assert raw.getvalue() == b"(f on n1) \\xfc\n"


def test_whatever_a_stream_of_the_program_raises_goes_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    class Odd:
        def write(self, text: str) -> int:
            raise RuntimeError("closed, maybe")

    for stream in (Odd(), object()):
        monkeypatch.setattr(sys, "stdout", stream)
        OutputPrinter().output("f", piece(b"text\n"))
