"""Capacity arithmetic: the shortest time that the hardware allows (roofline), and the predicted result of a boot."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import NamedTuple

from pytest_longctx.deployments import accelerators
from pytest_longctx.deployments.hardware import Hardware
from pytest_longctx.deployments.shape import Shape, not_plain
from pytest_longctx.observation import Outcome
from pytest_longctx.shapes import ModelShape
from pytest_longctx.shapes.caches import Latent
from pytest_longctx.units import GiB

PEAK_TFLOPS: Mapping[str, Mapping[int, float]] = MappingProxyType(
    {
        kind: {size: peak for size, peak in ((2, one.bf16), (1, one.fp8)) if peak is not None}
        for kind, one in accelerators.every().items()
    }
)
"""Dense peak of one device in TFLOP/s, by bytes per value (2: BF16, 1: FP8), from the vendors' data sheets; trn2 is one chip."""

USUAL_UTILISATION = 0.5
"""Assumed share of the peak in long prefills. Measured: 0.46 to 0.60 on H200s with vLLM 0.12.0 and 0.25.1."""

LOG_WINDOW_S = 10.0
"""
Length of vLLM's log window. The logged rate counts the prompts whose first token fell in it, divided by this length.
"""

LOG_WINDOW_SLACK = 1e-3
"""Relative tolerance of the window length. The five published rates differ by less."""


def prefill_flop(shape: Shape, tokens: int) -> float:
    """Floating-point operations of a prefill: matrices, causal attention of full layers, and attention within windows."""
    if shape.whole is not None and not_plain(shape.whole):
        return shape.whole.attention_flop(tokens) + 2 * (shape.active_parameters - shape.embedding_parameters) * tokens
    width = shape.heads * shape.head_dim
    full = 2 * tokens**2 * width * shape.full
    local = 2 * tokens * min(shape.window, tokens) * width * (shape.chunked + shape.sliding)
    return full + local + 2 * (shape.active_parameters - shape.embedding_parameters) * tokens


def prefill_terms(shape: Shape) -> tuple[float, float, float]:
    """
    Coefficients of the floating-point operations of a prefill that is longer than a window.

    Per token: matrices and attention within windows. Per token squared: full attention.
    """
    if shape.whole is not None and not_plain(shape.whole):
        return _terms_of(shape.whole, 2 * (shape.active_parameters - shape.embedding_parameters))
    width = shape.heads * shape.head_dim
    local = 2 * shape.window * width * (shape.chunked + shape.sliding)
    return 2 * (shape.active_parameters - shape.embedding_parameters), local, 2 * width * shape.full


def _terms_of(whole: ModelShape, products: float) -> tuple[float, float, float]:
    """
    Coefficients of a prefill's operations for layers that differ.

    Bounded attention grows with the tokens, other attention with their square.
    """
    local = full = 0.0
    for cache, count in whole.attentions:
        width = count * cache.heads * (cache.key_dim + cache.value_dim)
        rate = cache.rate if isinstance(cache, Latent) else 1
        if reach := cache.window or cache.attended * rate:
            local += 2 * reach * width / rate
        else:
            full += width / rate
    return products, local, full


def prefill_floor_s(shape: Shape, tokens: int, hardware: Hardware, value_bytes: int = 2) -> float | None:
    """Return the shortest time to prefill *tokens* on *hardware*; None if its peak is unknown."""
    peak = PEAK_TFLOPS.get(hardware.kind, {}).get(value_bytes)
    return None if peak is None else prefill_flop(shape, tokens) / (peak * 1e12 * hardware.count)


def peak_share(shape: Shape, tokens: int, seconds: float, hardware: Hardware, value_bytes: int = 2) -> float | None:
    """
    Return the share of the peak of *hardware* in a measured prefill; None if the peak is unknown. Above 1, the
    measurement is wrong.
    """
    floor_s = prefill_floor_s(shape, tokens, hardware, value_bytes)
    return None if floor_s is None else floor_s / seconds


class Law(NamedTuple):
    """Time to first token over prompt length N: ``t = linear_s x N + quadratic_s x N^2``, per token and per token squared."""

    linear_s: float
    quadratic_s: float

    def seconds(self, tokens: int) -> float:
        """Return the TTFT in seconds that the fitted law gives for a prompt of *tokens*."""
        return self.linear_s * tokens + self.quadratic_s * tokens**2


def fit(points: Sequence[tuple[int, float]]) -> Law:
    """
    Fit the law of TTFT over prompt length to (tokens, seconds) by least squares of the relative error.

    Short prompts then count as much as long ones. Raises ValueError for fewer than two different lengths.
    """
    if len({tokens for tokens, _ in points}) < 2:
        raise ValueError("a formula with two terms needs two different prompt lengths")
    import numpy as np  # noqa: PLC0415 - this module is read wherever a verdict is shown, and few of those need a law

    # t / t_i = 1 with columns N / t_i and N^2 / t_i; lengths in millions keep them well conditioned.
    millions, seconds = np.array(points, dtype=float).T / [[1e6], [1.0]]
    (linear_s, quadratic_s), *_ = np.linalg.lstsq(
        np.stack((millions, millions**2), axis=1) / seconds[:, None], np.ones(len(points)), rcond=None
    )
    return Law(float(linear_s) / 1e6, float(quadratic_s) / 1e12)


DEVICE_GIB: Mapping[str, float] = MappingProxyType(
    {kind: one.visible_gib for kind, one in accelerators.every().items() if one.visible_gib is not None}
)
"""Memory of one device in GiB, as PyTorch reports it."""


@dataclass(frozen=True, slots=True)
class Term:
    """One part of the memory: its name, its size, and whether it is on the host or a device."""

    name: str
    size_bytes: float
    host: bool = False
    bounds_bytes: tuple[float, float] | None = None
    """Least and most size, if kernels and versions differ by more than rounding; None if they do not."""

    def __str__(self) -> str:
        low, high = self.bounds_bytes or (0.0, 0.0)
        between = f" ({low / GiB:.2f} to {high / GiB:.2f})" if self.bounds_bytes else ""
        return f"{self.name} {self.size_bytes / GiB:.2f} GiB{between}{' of host memory' if self.host else ''}"


@dataclass(frozen=True, slots=True)
class Prediction:
    """The expected result of one boot. *outcome* ``serves`` means that it fits."""

    outcome: Outcome
    terms: tuple[Term, ...]
    longest_tokens: int
    """Longest request that the server can hold, in tokens."""
    concurrency: float | None = None
    """Number of full-context requests that fit at once, as the engine would log it; None if the engine has no such figure."""
    culprit: Term | None = None
    """The term without which the boot would fit. It is seldom the allocation that fails."""
    failing_bytes: float | None = None
    """Size of the allocation that is expected to fail, as the error message will report it."""
    cure: str = ""
    """The flag that corrects the problem."""
    advertised_tokens: int | None = None
    """The context it advertises, if that may exceed what it can hold."""

    host_cure: str = ""
    """The flag that reduces its use of host memory."""
    doubt: str = ""
    """Why *outcome* may be wrong: the unknown part, and its size; empty if there is no such doubt."""

    def on_host(self, host_bytes: float | None) -> "Prediction":
        """
        Return the predicted boot with *host_bytes* of host memory (None if unknown). Failures on the devices come
        first.
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
