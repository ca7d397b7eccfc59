"""
A growing log as bytes: cut into lines, and sifted for the few that matter.

Nothing here keeps more than one line. Where a log is cut into chunks never changes what comes out.
"""

from collections.abc import Sequence

LONGEST_LINE = 64 * 1024
"""Bytes of a line that are read; the rest of it is passed over."""

_DIGITS = b"0123456789"


class Lines:
    """Chunks in, whole lines out, each with a newline at its end and none longer than `LONGEST_LINE`."""

    def __init__(self) -> None:
        self._rest = b""
        self._passing = False
        """Whether what comes is the rest of a line that was cut."""

    def take(self, chunk: bytes) -> bytes:
        """The lines that *chunk* completes. A carriage return ends one too: progress bars use nothing else."""
        chunk = chunk.replace(b"\r", b"\n")
        if self._passing:
            end = chunk.find(b"\n")
            if end < 0:
                return b""
            chunk = chunk[end + 1 :]
        data = self._rest + chunk
        self._passing = False
        whole, start = [], 0
        while len(data) - start > LONGEST_LINE:
            end = data.rfind(b"\n", start, start + LONGEST_LINE + 1)
            if end >= 0:
                whole.append(data[start : end + 1])
                start = end + 1
                continue
            whole.append(data[start : start + LONGEST_LINE] + b"\n")
            start = data.find(b"\n", start + LONGEST_LINE) + 1
            if start == 0:
                self._passing = True
                start = len(data)
        end = data.rfind(b"\n", start) + 1
        if end > start:
            whole.append(data[start:end])
        self._rest = data[max(start, end) :]
        return b"".join(whole)

    def rest(self) -> bytes:
        """The last line, where the log ends without a newline."""
        last, self._rest = self._rest, b""
        return last + b"\n" if last else b""


class Sieve:
    """Finds, in one block of whole lines after the other, those that have a word of *hints* in them."""

    def __init__(self, hints: Sequence[bytes]) -> None:
        self.hints = hints
        self._ahead: dict[bytes, int] = {}

    def load(self, block: bytes) -> None:
        """Turn to *block*."""
        self._block = block
        # A log says the same thing many times with other numbers: without them little is left to search. No hint has a digit.
        shapes = b"\n".join(set(block.translate(None, _DIGITS).split(b"\n")))
        self._ahead = {hint: -1 for hint in self.hints if hint in shapes}

    def next(self, start: int) -> int:
        """Where the next line that matters begins, from the beginning of a line on; the block's length if there is none."""
        block, first = self._block, len(self._block)
        for hint, at in list(self._ahead.items()):
            if at < start:
                at = block.find(hint, start)  # noqa: PLW2901 - the one that was kept has been passed
                if at < 0:
                    del self._ahead[hint]
                    continue
                self._ahead[hint] = at
            first = min(first, at)
        return first if first == len(block) else block.rfind(b"\n", 0, first) + 1
