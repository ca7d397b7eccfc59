"""Capacity arithmetic: the least time the hardware allows (roofline), and what a boot is predicted to come to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import NamedTuple

from pytest_longctx.deployments.hardware import Hardware
from pytest_longctx.deployments.shape import Shape
from pytest_longctx.observation import Outcome
from pytest_longctx.units import GiB

PEAK_TFLOPS: Mapping[str, Mapping[int, float]] = MappingProxyType(
    {
        "H200": {2: 989, 1: 1979},
        "H100": {2: 989, 1: 1979},
        "B200": {2: 2250, 1: 4500},
        "MI300X": {2: 1307, 1: 2614},
        "trn2": {2: 667, 1: 1299},
    }
)
"""Dense peak of one device in TFLOP/s by bytes of a value (2: BF16, 1: FP8), from the vendors' data sheets; trn2 is one chip."""

BANDWIDTH_TB_PER_S: Mapping[str, float] = MappingProxyType(
    {"H200": 4.8, "H100": 3.35, "B200": 8.0, "MI300X": 5.3, "trn2": 2.9}
)
"""Memory bandwidth of one device, from the vendors' data sheets."""

LOG_WINDOW_S = 10.0
"""vLLM's log line divides the prompts whose first token came in a window by its length."""

LOG_WINDOW_SLACK = 1e-3
"""Part by which a window may differ from `LOG_WINDOW_S`: the five published rates differ by less."""


def prefill_flop(shape: Shape, tokens: int) -> float:
    """Floating-point operations to read a prompt: causal attention in full layers, attention within windows, and the matrices."""
    width = shape.heads * shape.head_dim
    full = 2 * tokens**2 * width * shape.full
    local = 2 * tokens * min(shape.window, tokens) * width * (shape.chunked + shape.sliding)
    return full + local + 2 * (shape.active_parameters - shape.embedding_parameters) * tokens


def prefill_terms(shape: Shape) -> tuple[float, float, float]:
    """
    What the operations of a prefill grow with, once it is longer than a window.

    For each token those of the matrices and of attention within windows; for each token squared those of full attention.
    """
    width = shape.heads * shape.head_dim
    local = 2 * shape.window * width * (shape.chunked + shape.sliding)
    return 2 * (shape.active_parameters - shape.embedding_parameters), local, 2 * width * shape.full


def prefill_floor_s(shape: Shape, tokens: int, hardware: Hardware, value_bytes: int = 2) -> float | None:
    """The least time to read a prompt of *tokens* on *hardware*; None where its peak is not known."""
    peak = PEAK_TFLOPS.get(hardware.kind, {}).get(value_bytes)
    return None if peak is None else prefill_flop(shape, tokens) / (peak * 1e12 * hardware.count)


def peak_share(shape: Shape, tokens: int, seconds: float, hardware: Hardware, value_bytes: int = 2) -> float | None:
    """The share of its peak that *hardware* would have delivered; above 1 the measurement is wrong. None: peak not known."""
    floor_s = prefill_floor_s(shape, tokens, hardware, value_bytes)
    return None if floor_s is None else floor_s / seconds


def decode_floor_s(
    shape: Shape, tokens: int, hardware: Hardware, value_bytes: int = 2, weight_value_bytes: int = 2
) -> float | None:
    """The least time for one token after *tokens*: active weights and the KV cache that is attended to are read once."""
    bandwidth = BANDWIDTH_TB_PER_S.get(hardware.kind)
    if bandwidth is None:
        return None
    attended = shape.full * tokens + (shape.chunked + shape.sliding) * min(shape.window, tokens)
    kv_bytes = 2 * shape.kv_heads * shape.head_dim * value_bytes * attended
    return (shape.active_parameters * weight_value_bytes + kv_bytes) / (bandwidth * 1e12 * hardware.count)


def implied_window_s(prompt_tokens: int, logged_tokens_per_s: float) -> float:
    """
    The window that makes a logged rate out of one prompt: about 10 s where a whole prompt was credited to one window.

    >>> round(implied_window_s(9_811_859, 981_184.7), 3)   # 9.8M tokens that really took 2,964 s
    10.0
    """
    return prompt_tokens / logged_tokens_per_s


def is_log_artefact(prompt_tokens: int, logged_tokens_per_s: float) -> bool:
    """Whether a rate from vLLM's log is one prompt divided by the log's window, to one part in a thousand."""
    return abs(implied_window_s(prompt_tokens, logged_tokens_per_s) / LOG_WINDOW_S - 1) < LOG_WINDOW_SLACK


class Law(NamedTuple):
    """Time to first token over prompt length N: ``t = linear_s x N + quadratic_s x N^2``, per token and per token squared."""

    linear_s: float
    quadratic_s: float

    def seconds(self, tokens: int) -> float:
        """The time this law gives for *tokens*."""
        return self.linear_s * tokens + self.quadratic_s * tokens**2


def fit(points: Sequence[tuple[int, float]]) -> Law:
    """
    The law through (tokens, seconds), by least squares of the relative error, so that short prompts count as much as long ones.

    Raises ValueError for fewer than two different lengths.
    """
    if len({tokens for tokens, _ in points}) < 2:
        raise ValueError("a law of two terms needs two different lengths")
    # Normal equations of t / t_i = 1 with columns N / t_i and N^2 / t_i; lengths in millions keep them well conditioned.
    rows = [(tokens / 1e6 / seconds, (tokens / 1e6) ** 2 / seconds) for tokens, seconds in points]
    aa, ab, bb = (sum(x * y for x, y in some) for some in ([(a, a) for a, _ in rows], rows, [(b, b) for _, b in rows]))
    a1, b1 = sum(a for a, _ in rows), sum(b for _, b in rows)
    determinant = aa * bb - ab * ab
    return Law((a1 * bb - b1 * ab) / determinant / 1e6, (aa * b1 - ab * a1) / determinant / 1e12)


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
    doubt: str = ""
    """Why *outcome* may be wrong: what is not known here, and by how much; empty where it is as sure as the rest."""

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
        if self.fits and self.doubt:
            return f"not decided, fits at a guess: {self.doubt}"
        if self.fits and self.longest_tokens < (self.advertised_tokens or 0):
            return f"comes up, but holds only {self.longest_tokens:,} of the {self.advertised_tokens:,} tokens it advertises"
        if self.fits:
            return "fits" + (f" {self.concurrency:.2f}x" if self.concurrency is not None else "")
        if self.doubt:
            return f"not decided, {self.outcome} at a guess: {self.doubt}"
        return f"{self.outcome}: {self.culprit}" + (f"; {self.cure} cures it" if self.cure else "")
