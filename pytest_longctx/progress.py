"""Waits: what a long one has to say about itself while it lasts, and a short one for something that is looked at."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from pytest_longctx.units import duration

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Progress:
    """One look at a wait: a boot, or a request whose first token has not come."""

    what: str
    phase: str
    elapsed_s: float
    deadline_s: float
    kv_usage: float | None = None
    """Share of the KV cache in use, 0 to 1."""
    running: float | None = None
    """Requests that the server works on."""
    read_tokens: float | None = None
    """Tokens of the prompt that the server has read, where it says so while it reads."""
    expected_s: float | None = None
    """What it should come to: predicted for a first token, or what a boot was seen to take."""

    def __str__(self) -> str:
        return f"{self.what}{self._rest}"

    @property
    def _rest(self) -> str:
        said = [self.phase]
        said += [] if self.running is None else [f"{self.running:.0f} running"]
        said += [] if self.read_tokens is None else [f"{self.read_tokens:,.0f} tokens read"]
        said += [] if self.kv_usage is None else [f"KV {self.kv_usage:.1%}"]
        limit = (
            f"at most {duration(self.deadline_s)}" if self.expected_s is None else f"about {duration(self.expected_s)}"
        )
        return f": {', '.join(said)}, {duration(self.elapsed_s)} of {limit}"

    def fitted(self, columns: int) -> str:
        """The line, cut to a width so that it can be written over; its figures go last."""
        room = columns - len(self._rest)
        if room >= len(self.what):
            return str(self)
        return f"{self.what[: max(room - 3, 0)]}...{self._rest}"[:columns]


ProgressCallback = Callable[[Progress], None]
"""Called now and then during a wait; it must return quickly."""


def no_progress(progress: Progress) -> None:
    """Watch nothing."""


def wait_until(look: Callable[[], T], timeout_s: float, every_s: float = 0.1, done: Callable[[T], object] = bool) -> T:
    """
    *look* every *every_s* until *done* with what it returns, or until *timeout_s* is over; what it returned last.

    At least once, and once more after the last pause.
    """
    end_s = time.monotonic() + timeout_s
    while not done(seen := look()) and time.monotonic() < end_s:
        time.sleep(every_s)
    return seen
