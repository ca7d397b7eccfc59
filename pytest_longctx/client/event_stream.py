"""
Parser of server-sent events, as the HTML standard defines them (section 9.2.6, "Interpreting an event stream").

A line ends with LF, CR LF or CR; one BOM at the start is skipped; a line that begins with a colon is a comment; several ``data``
lines of one event are joined by LF; an event without data is not dispatched. Beyond the standard, the size of an event
is limited.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

EVENT_BYTES: Final = 4 * 2**20
"""Most bytes of one line, and of all data of one event. A chunk of a completion has some hundred."""
_BOM: Final = b"\xef\xbb\xbf"


class OversizedEvent(ValueError):  # noqa: N818 - it states what the server sent
    """A line, or the data of one event, is longer than `EVENT_BYTES`."""


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event, as the parser dispatched it."""

    data: str
    type: str = "message"


@dataclass(slots=True)
class EventParser:
    """Parser of a byte stream into server-sent events. The stream may be cut into pieces anywhere."""

    most_bytes: int = EVENT_BYTES
    _line: bytearray = field(default_factory=bytearray)
    """The incomplete last line."""
    _after_cr: bool = False
    """Whether the last piece ended with CR. A LF at the start of the next piece belongs to that CR."""
    _first: bool = True
    _data: list[str] = field(default_factory=list)
    _data_bytes: int = 0
    _type: str = ""

    def feed(self, piece: bytes) -> Iterator[Event]:
        """Yield the server-sent events that *piece* completes. Raises `OversizedEvent`."""
        if self._after_cr and piece.startswith(b"\n"):
            piece = piece[1:]
            self._after_cr = False
        if not piece:
            return
        self._after_cr = piece.endswith(b"\r")
        *ended, rest = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for each in ended:
            self._grow(each)
            line, self._line = bytes(self._line), bytearray()
            yield from self._take(line)
        self._grow(rest)

    def _grow(self, part: bytes) -> None:
        self._line += part
        if len(self._line) > self.most_bytes:
            raise OversizedEvent(f"a line of the event stream is longer than {self.most_bytes / 2**20:.3g} MiB")

    def _take(self, line: bytes) -> Iterator[Event]:
        if self._first:
            self._first = False
            line = line.removeprefix(_BOM)
        if not line:
            if self._data:
                yield Event("\n".join(self._data), self._type or "message")
            self._data, self._data_bytes, self._type = [], 0, ""
            return
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data_bytes += len(value) + 1
            if self._data_bytes > self.most_bytes:
                raise OversizedEvent(f"the data of one event is longer than {self.most_bytes / 2**20:.3g} MiB")
            self._data.append(value.decode("utf-8", "replace"))
        elif name == b"event":
            self._type = value.decode("utf-8", "replace")[:100]
