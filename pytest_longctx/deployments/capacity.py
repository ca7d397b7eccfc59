"""The predicted result of a boot: whether it fits, the parts of its memory, and the part that does not fit."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from pytest_longctx.deployments import accelerators
from pytest_longctx.observation import Outcome
from pytest_longctx.units import GiB

DEVICE_GIB: Mapping[str, float] = MappingProxyType(
    {kind: one.visible_gib for kind, one in accelerators.every().items() if one.visible_gib is not None}
)
"""Memory of one device in GiB, as PyTorch reports it."""


@dataclass(frozen=True, slots=True)
class Term:
    """One part of the predicted memory: its name, its size, and whether it is on the host or a device."""

    name: str
    size_bytes: float
    host: bool = False
    bounds_bytes: tuple[float, float] | None = None
    """Smallest and largest size, if kernels and versions differ by more than rounding; None otherwise."""

    def __str__(self) -> str:
        low, high = self.bounds_bytes or (0.0, 0.0)
        between = f" ({low / GiB:.2f} to {high / GiB:.2f})" if self.bounds_bytes else ""
        return f"{self.name} {self.size_bytes / GiB:.2f} GiB{between}{' of host memory' if self.host else ''}"


@dataclass(frozen=True, slots=True)
class Prediction:
    """The predicted result of one boot. The *outcome* ``serves`` means that the boot fits."""

    outcome: Outcome
    terms: tuple[Term, ...]
    longest_tokens: int
    """Longest request that the server can hold, in tokens."""
    concurrency: float | None = None
    """
    Number of full-context requests that fit at once, as the engine would log it; None if the engine logs no such
    figure.
    """
    culprit: Term | None = None
    """The term without which the boot would fit, which is seldom the allocation that fails; None if the boot fits."""
    failing_bytes: float | None = None
    """Size of the allocation that is expected to fail, as the error message will report it."""
    cure: str = ""
    """The flag that corrects the problem."""
    advertised_tokens: int | None = None
    """The context that the server advertises, if that may exceed the context that it can hold; else None."""

    host_cure: str = ""
    """The flag that reduces the server's use of host memory."""
    doubt: str = ""
    """The reason why *outcome* may be wrong: the unknown part, and its size; empty without such a doubt."""

    def on_host(self, host_bytes: float | None) -> "Prediction":
        """
        Return the prediction for *host_bytes* of host memory (None if unknown). A failure on the devices comes before
        one on the host.
        """
        taken = [term for term in self.terms if term.host]
        if host_bytes is None or not self.fits or sum(term.size_bytes for term in taken) <= host_bytes:
            return self
        largest = max(taken, key=lambda term: term.size_bytes)
        # The kernel kills a process, and the engine only detects that it has exited.
        return replace(self, outcome="dies", culprit=largest, cure=self.host_cure)

    @property
    def fits(self) -> bool:
        """Whether the predicted boot fits: the server comes up and can hold one full-context request."""
        return self.outcome == "serves"

    def __str__(self) -> str:
        if self.fits and self.doubt:
            return f"not decided, fits at a guess: {self.doubt}"
        if self.fits and self.longest_tokens < (self.advertised_tokens or 0):
            return (
                f"starts, but holds only {self.longest_tokens:,} of the {self.advertised_tokens:,} tokens it advertises"
            )
        if self.fits:
            return "fits" + (f" {self.concurrency:.2f}x" if self.concurrency is not None else "")
        if self.doubt:
            return f"not decided, {self.outcome} at a guess: {self.doubt}"
        return f"{self.outcome}: {self.culprit}" + (f"; {self.cure} fixes it" if self.cure else "")
