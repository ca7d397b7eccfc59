"""
A growing log as bytes: cut into lines, and sifted for the few that matter.

Nothing here keeps more than one line. Where a log is cut into chunks never changes what comes out.
"""

from collections.abc import Sequence

LONGEST_LINE = 64 * 1024
"""Bytes of a line that are read; the rest of it is passed over."""

_LEFT_OUT = (b"0123456789", b"0123456789abcdefABCDEF")
"""Bytes without which the lines of a log are often alike: numbers differ, and ids in hexadecimal."""
_SAMPLE = 64 * 1024


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
        data = self._rest + chunk if self._rest else chunk
        self._passing = False
        whole, kept, start = [], 0, 0
        while len(data) - start > LONGEST_LINE:
            end = data.rfind(b"\n", start, start + LONGEST_LINE + 1)
            if end >= 0:
                start = end + 1
                continue
            whole += [data[kept : start + LONGEST_LINE], b"\n"]
            kept = start = data.find(b"\n", start + LONGEST_LINE) + 1
            if start == 0:
                self._passing = True
                kept = start = len(data)
        end = max(start, data.rfind(b"\n", start) + 1)
        whole.append(data[kept:end])
        self._rest = data[end:]
        return b"".join(whole)

    def rest(self) -> bytes:
        """The last line, where the log ends without a newline."""
        last, self._rest = self._rest, b""
        return last + b"\n" if last else b""


def _shapes(block: bytes, left_out: bytes) -> bytes:
    """The different lines of *block* without the bytes that are *left_out*."""
    return b"\n".join(set(block.translate(None, left_out).split(b"\n")))


class Sieve:
    """Finds, in one *block* of whole lines, those that have one of *hints* in them."""

    def __init__(self, hints: Sequence[bytes], block: bytes) -> None:
        self._block = block
        # Most logs say the same things again with other numbers: without these little is left to search, for hints without them.
        sample, lines = block[:_SAMPLE], block.count(b"\n", 0, _SAMPLE)
        dull = next((each for each in _LEFT_OUT if 2 * _shapes(sample, each).count(b"\n") < lines), b"")
        searched = _shapes(block, dull) if dull else block
        self._ahead = {hint: -1 for hint in hints if hint.translate(None, dull) in searched}

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
