"""Which lines of a log matter, decided once for lines that differ only in numbers and ids."""

from collections.abc import Callable, Mapping
from typing import Final

HEXADECIMAL: Final = b"0123456789abcdef"
"""Lines that differ only in these bytes, such as in numbers and ids, have the same shape."""
_MOST_SHAPES: Final = 20_000
_GROUP_LINES: Final = 64


class LineShapes:
    """The shapes seen so far; *matters* says whether an entry of the catalogue may match a text of one line or several."""

    def __init__(self, matters: Callable[[str], bool]) -> None:
        self._matters = matters
        self.known: dict[bytes, bool] = {}

    def sort_out(self, by_shape: Mapping[bytes, bytes]) -> None:
        """Decide for each new line shape whether its lines matter; groups of lines are searched first."""
        if len(self.known) > _MOST_SHAPES:
            self.known.clear()
        fresh = [each for each in by_shape.items() if each[0] not in self.known]
        for start in range(0, len(fresh), _GROUP_LINES):
            group = fresh[start : start + _GROUP_LINES]
            some = self._matters(b"\n".join(line for _, line in group).decode("utf-8", "replace"))
            for shape, line in group:
                self.known[shape] = some and self._matters(line.decode("utf-8", "replace"))
