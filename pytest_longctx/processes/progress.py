"""Progress reports of long waits, and a short wait until a condition holds."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from pytest_longctx.units import duration

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Progress:
    """One sample of a wait: a boot, or a request before its first token."""

    what: str
    phase: str
    elapsed_s: float
    deadline_s: float
    kv_usage: float | None = None
    """Share of the KV cache in use, 0 to 1."""
    running: float | None = None
    """Number of requests that the server processes."""
    read_tokens: float | None = None
    """Prompt tokens computed so far, if the server reports them during prefill."""
    expected_s: float | None = None
    """Expected duration: predicted for a first token, or observed for earlier boots."""

    def __str__(self) -> str:
        return f"{self.what}{self._rest}"

    @property
    def _rest(self) -> str:
        parts = [self.phase]
        parts += [] if self.running is None else [f"{self.running:.0f} running"]
        parts += [] if self.read_tokens is None else [f"{self.read_tokens:,.0f} tokens read"]
        parts += [] if self.kv_usage is None else [f"KV {self.kv_usage:.1%}"]
        limit = (
            f"at most {duration(self.deadline_s)}" if self.expected_s is None else f"about {duration(self.expected_s)}"
        )
        return f": {', '.join(parts)}, {duration(self.elapsed_s)} of {limit}"

    def fitted(self, columns: int) -> str:
        """
        Return the progress as a line of at most *columns* characters, which can be overwritten. The figures at the end
        are kept.
        """
        room = columns - len(self._rest)
        if room >= len(self.what):
            return str(self)
        return f"{self.what[: max(room - 3, 0)]}...{self._rest}"[:columns]


ProgressCallback = Callable[[Progress], None]
"""Callback that is called repeatedly during a wait. It must return quickly."""


def no_progress(progress: Progress) -> None:
    """Ignore the progress: the default of functions that report progress."""


def wait_until(look: Callable[[], T], timeout_s: float, every_s: float = 0.1, done: Callable[[T], object] = bool) -> T:
    """
    Call *look* every *every_s* seconds until *done* accepts its value or *timeout_s* has passed, and return the last
    value.

    *look* is called at least once, and once more after the last pause.
    """
    end_s = time.monotonic() + timeout_s
    while not done(seen := look()) and time.monotonic() < end_s:
        time.sleep(every_s)
    return seen
