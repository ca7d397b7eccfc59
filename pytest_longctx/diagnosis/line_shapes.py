"""
Decide which lines of a log matter, once for all lines that differ only in numbers and ids.

A piece of the log without any word that a pattern needs is passed over as a whole.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from pytest_longctx.diagnosis.boot_state import SIZES_DUE

_HEXADECIMAL: Final = b"0123456789abcdef"
"""Lines that differ only in these bytes, such as in numbers and ids, have the same shape."""
_MOST_SHAPES: Final = 20_000
_MOST_BYTES: Final = 4 << 20
"""Most bytes of all shapes together: a few thousand long lines are as much as all shapes of usual ones."""
_GROUP_BYTES: Final = 4 << 10
"""Bytes of lines that are searched together."""
_PIECE_BYTES: Final = 16 << 10
_OFTEN: Final = 16
"""Lines of one shape that are read in one block. Of further lines of this shape only the last is read."""


class LineShapes:
    """
    The shapes seen so far. *matter* decides which lines must be read. *may_matter* decides faster, but less exactly, whether a
    piece of the log may have such a line.
    """

    def __init__(self, matter: Callable[[Sequence[bytes]], list[bool]], may_matter: Callable[[bytes], bool]) -> None:
        self._matter, self._may_matter = matter, may_matter
        self.known: dict[bytes, bool] = {}
        self._bytes = 0

    def due(self, block: bytes, attention: Callable[[], int]) -> Iterator[tuple[int, bytes, int]]:
        """
        Yield the lines of a *block* to read: number in the block, line, and the number of equal lines for which it
        stands.

        After each line, *attention* returns how closely the next lines are read.
        """
        pieces, last = list[tuple[int, bytes, list[bytes]]](), dict[bytes, int]()
        at, by_shape = 0, dict[bytes, bytes]()
        for piece in _pieces(block):
            shapes = list[bytes]()
            if self._may_matter(piece):
                shapes = _shapes(piece)
                by_shape.update(zip(shapes, piece.split(b"\n"), strict=True))
                last.update(zip(shapes, range(at, at + len(shapes)), strict=True))
            pieces.append((at, piece, shapes))
            at += piece.count(b"\n")
        self._sort_out(by_shape)
        return self._read(pieces, last, attention)

    def _read(
        self, pieces: list[tuple[int, bytes, list[bytes]]], last: Mapping[bytes, int], attention: Callable[[], int]
    ) -> Iterator[tuple[int, bytes, int]]:
        seen, passed, attentive = dict[bytes, int](), dict[bytes, int](), attention()
        for at, piece, shapes in pieces:
            if not (shapes or attentive):
                continue
            lines = zip(piece.split(b"\n"), shapes or _shapes(piece), strict=True)
            for number, (line, shape) in enumerate(lines, at):
                matters = bool(shapes) and self.known.get(shape, True)
                if not shape or not (matters or attentive):
                    continue
                count = seen[shape] = seen.get(shape, 0) + 1
                if count > _OFTEN and attentive < SIZES_DUE and not (matters and number == last[shape]):
                    passed[shape] = passed.get(shape, 0) + 1  # only its last figures, and how often it came, are new
                    continue
                yield number, line, 1 + passed.pop(shape, 0)
                attentive = attention()

    def _sort_out(self, by_shape: Mapping[bytes, bytes]) -> None:
        """Decide for each new line shape whether its lines matter."""
        if len(self.known) > _MOST_SHAPES or self._bytes > _MOST_BYTES:
            self.known.clear()
            self._bytes = 0
        fresh = [each for each in by_shape.items() if each[0] not in self.known]
        self._bytes += sum(len(shape) for shape, _ in fresh)
        start = size = 0
        for end, (shape, _) in enumerate(fresh, 1):
            size += len(shape)
            if size >= _GROUP_BYTES or end == len(fresh):
                shapes, lines = zip(*fresh[start:end], strict=True)
                self.known.update(zip(shapes, self._matter(lines), strict=True))
                start, size = end, 0


def _shapes(piece: bytes) -> list[bytes]:
    return piece.translate(None, _HEXADECIMAL).split(b"\n")


def _pieces(block: bytes) -> Iterator[bytes]:
    """Yield a log's *block* in pieces of whole lines."""
    start = 0
    while start < len(block):
        end = block.find(b"\n", start + _PIECE_BYTES) + 1 or len(block)
        yield block[start:end]
        start = end
