"""The least time a prefill can take, and what follows: a rate above the device's peak is an error of measurement."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from pytest_longctx.deployments.hardware import Hardware
from pytest_longctx.deployments.shape import Shape

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
