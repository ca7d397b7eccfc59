"""What a boot is expected to come to, term by term, before a device is touched."""

from dataclasses import dataclass, replace

from pytest_longctx.observation import Outcome
from pytest_longctx.units import GiB

DEVICE_GIB = {"H200": 139.8, "H100": 79.1, "B200": 178.4, "MI300X": 191.5}
"""Memory of one device as PyTorch reports it, in GiB."""


@dataclass(frozen=True, slots=True)
class Term:
    """One part of the memory: what it is, how large, and on the device or on the host."""

    name: str
    size_bytes: float
    host: bool = False

    def __str__(self) -> str:
        return f"{self.name} {self.size_bytes / GiB:.2f} GiB{' of host memory' if self.host else ''}"


@dataclass(frozen=True, slots=True)
class Prediction:
    """What is expected of one boot. *outcome* ``serves`` means it fits."""

    outcome: Outcome
    terms: tuple[Term, ...]
    longest_tokens: int
    """The longest request the server can hold."""
    concurrency: float | None = None
    """Requests of the full context that fit at once, as the engine would log it; None where it has no such figure."""
    culprit: Term | None = None
    """What makes it fail: the term without which it would fit, which is seldom the allocation that fails."""
    failing_bytes: float | None = None
    """The size of the allocation that is expected to fail, as the error message will give it."""
    cure: str = ""
    """The flag that would mend it."""
    advertised_tokens: int | None = None
    """The context it claims, where that may be more than it can hold."""

    host_cure: str = ""
    """The flag that would lessen what it takes of the host's memory."""

    def on_host(self, host_bytes: float | None) -> "Prediction":
        """The same beside *host_bytes* of host memory (None: not known); what fails on the devices fails there first."""
        taken = [term for term in self.terms if term.host]
        if host_bytes is None or not self.fits or sum(term.size_bytes for term in taken) <= host_bytes:
            return self
        largest = max(taken, key=lambda term: term.size_bytes)
        # The kernel ends a process, which the engine only sees to be gone.
        return replace(self, outcome="dies", culprit=largest, cure=self.host_cure)

    @property
    def fits(self) -> bool:
        """Whether the server comes up and can hold one request of its context."""
        return self.outcome == "serves"

    def __str__(self) -> str:
        if self.fits and self.longest_tokens < (self.advertised_tokens or 0):
            return f"comes up, but holds only {self.longest_tokens:,} of the {self.advertised_tokens:,} tokens it advertises"
        if self.fits:
            return "fits" + (f" {self.concurrency:.2f}x" if self.concurrency is not None else "")
        return f"{self.outcome}: {self.culprit}" + (f"; {self.cure} cures it" if self.cure else "")
