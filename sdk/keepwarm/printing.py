"""What calls print, shown in this program: whole lines, each marked with the function and the node it comes from.

Rules: only the thread that owns the client's turn calls this, and never under a lock, because a terminal or a pipe can
block. Whatever goes wrong with the program's own streams goes no further: output is not worth a call.
"""

import codecs
import sys
from typing import TextIO

from keepwarm.interruptions import BestEffort
from keepwarm_wire.messages import Output

__all__ = ["OutputPrinter"]

STDERR = 2
PARTIAL_CHARACTERS_MAX = 64 * 1024
"""A line longer than this is shown in pieces."""


class _Line:
    """The unfinished line of one stream of one call."""

    __slots__ = ("decoder", "prefix", "stream", "text")

    def __init__(self, prefix: str, stream: int) -> None:
        self.prefix = prefix
        self.stream = stream
        self.text = ""
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")


class OutputPrinter:
    """Prints output as it arrives; an unfinished line waits for its end or for the end of its call."""

    def __init__(self) -> None:
        self._lines: dict[tuple[int, int], _Line] = {}

    def output(self, function_name: str, output: Output) -> None:
        """Show a piece of what a call printed."""
        key = (output.call_number, output.stream)
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = _Line(f"({function_name} on {output.node}) ", output.stream)
        if output.dropped_bytes:
            self._show(line, [*([line.text] if line.text else []), f"... {output.dropped_bytes} bytes dropped ..."])
            line.text = ""
        *whole, line.text = (line.text + line.decoder.decode(output.data)).split("\n")
        if len(line.text) > PARTIAL_CHARACTERS_MAX:
            whole.append(line.text)
            line.text = ""
        self._show(line, whole)

    def finish(self, call_number: int) -> None:
        """The call is over: show what is left of its lines."""
        if not self._lines:
            return
        for stream in (1, STDERR):
            line = self._lines.pop((call_number, stream), None)
            if line is not None:
                rest = line.text + line.decoder.decode(b"", final=True)
                self._show(line, [rest] if rest else [])

    @staticmethod
    def _show(line: _Line, texts: list[str]) -> None:
        target: TextIO | None = sys.stderr if line.stream == STDERR else sys.stdout
        if not texts or target is None:
            return
        shown = "".join(f"{line.prefix}{text.removesuffix(chr(13))}\n" for text in texts)
        with BestEffort():
            try:
                target.write(shown)
            except UnicodeEncodeError:
                encoding = target.encoding or "ascii"
                target.write(shown.encode(encoding, "backslashreplace").decode(encoding))
