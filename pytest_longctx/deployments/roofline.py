"""Roofline of a prefill: its floating-point operations, and the shortest time that the hardware allows."""

from collections.abc import Mapping
from types import MappingProxyType

from pytest_longctx.deployments import accelerators
from pytest_longctx.deployments.hardware import Hardware
from pytest_longctx.deployments.shape import Shape, not_plain
from pytest_longctx.shapes import ModelShape
from pytest_longctx.shapes.caches import Latent

PEAK_TFLOPS: Mapping[str, Mapping[int, float]] = MappingProxyType(
    {
        kind: {size: peak for size, peak in ((2, one.bf16), (1, one.fp8)) if peak is not None}
        for kind, one in accelerators.every().items()
    }
)
"""Dense peak of one device in TFLOP/s, by bytes per value (2: BF16, 1: FP8), from the vendors' data sheets; trn2 is one chip."""
USUAL_UTILISATION = 0.5
"""Assumed share of the peak in long prefills. Measured: 0.46 to 0.60 on H200s with vLLM 0.12.0 and 0.25.1."""


def prefill_flop(shape: Shape, tokens: int) -> float:
    """
    Return the floating-point operations of a prefill: matrices, causal attention of full layers, and attention within
    windows.
    """
    if shape.whole is not None and not_plain(shape.whole):
        return shape.whole.attention_flop(tokens) + 2 * (shape.active_parameters - shape.embedding_parameters) * tokens
    width = shape.heads * shape.head_dim
    full = 2 * tokens**2 * width * shape.full
    local = 2 * tokens * min(shape.window, tokens) * width * (shape.chunked + shape.sliding)
    return full + local + 2 * (shape.active_parameters - shape.embedding_parameters) * tokens


def prefill_terms(shape: Shape) -> tuple[float, float, float]:
    """
    Return the coefficients of a prefill's floating-point operations over its length, for prompts longer than a window.

    Per token: matrices and attention within windows. Per token squared: full attention.
    """
    if shape.whole is not None and not_plain(shape.whole):
        return _terms_of(shape.whole, 2 * (shape.active_parameters - shape.embedding_parameters))
    width = shape.heads * shape.head_dim
    local = 2 * shape.window * width * (shape.chunked + shape.sliding)
    return 2 * (shape.active_parameters - shape.embedding_parameters), local, 2 * width * shape.full


def _terms_of(whole: ModelShape, products: float) -> tuple[float, float, float]:
    """
    Return the coefficients of a prefill's operations for layers that differ.

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
    """Return the shortest time in seconds to prefill *tokens* on *hardware*; None if the peak of *hardware* is unknown."""
    peak = PEAK_TFLOPS.get(hardware.kind, {}).get(value_bytes)
    return None if peak is None else prefill_flop(shape, tokens) / (peak * 1e12 * hardware.count)


def peak_share(shape: Shape, tokens: int, seconds: float, hardware: Hardware, value_bytes: int = 2) -> float | None:
    """
    Return the share of the peak of *hardware* in a measured prefill; None if the peak is unknown. Above 1, the
    measurement is wrong.
    """
    floor_s = prefill_floor_s(shape, tokens, hardware, value_bytes)
    return None if floor_s is None else floor_s / seconds
