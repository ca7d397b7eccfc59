"""What a long wait has to say about itself while it lasts."""

from collections.abc import Callable
from dataclasses import dataclass

from pytest_longctx.units import duration


@dataclass(frozen=True, slots=True)
class Progress:
    """One look at a wait: a boot, or a request whose first token has not come."""

    what: str
    phase: str
    elapsed_s: float
    deadline_s: float
    kv_usage: float | None = None
    """Share of the KV cache in use, 0 to 1."""

    def __str__(self) -> str:
        usage = "" if self.kv_usage is None else f", KV cache {self.kv_usage:.1%}"
        return f"{self.what}: {self.phase}{usage}, {duration(self.elapsed_s)} of {duration(self.deadline_s)}"


Watch = Callable[[Progress], None]
"""Called now and then during a wait; it must return quickly."""


def unwatched(progress: Progress) -> None:
    """Watch nothing."""
