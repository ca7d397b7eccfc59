"""Expected times of requests: decode steps from data sheets, and long prompts from a measured prompt."""

from math import ceil
from typing import NamedTuple

from pytest_longctx.deployments import accelerators, roofline
from pytest_longctx.deployments.hardware import Hardware
from pytest_longctx.deployments.shape import Shape

STEP_S = 0.006
"""
Time of a decode step without reading memory: scheduling, sampling, launching. Logs show 5 to 8 ms (0.12.0, 0.25.1,
H200).
"""
BANDWIDTH_SHARE = 0.6
"""Observed share of a device's bandwidth in decode steps."""
ATTENTION_SHARE = 0.55
"""Share of the peak of attention in long prompts: 0.46 to 0.60 on H200s (vLLM 0.12.0 and 0.25.1)."""


def decode_step_s(
    shape: Shape, context_tokens: int, batch: int, hardware: Hardware, value_bytes: float = 2
) -> float | None:
    """
    Return the seconds of a decode step of *batch* requests with *context_tokens* each; None for an unknown bandwidth.

    A step reads the weights that its tokens use (at most all experts) and each request's KV cache.
    """
    here = accelerators.every().get(hardware.kind)
    if here is None or not here.bandwidth_gbs:
        return None
    used = min(shape.parameters, shape.active_parameters * batch) - shape.embedding_parameters / 2
    kept = _kept_bytes(shape, context_tokens)
    read = max(0.0, used) * value_bytes + batch * kept
    return STEP_S + read / (here.bandwidth_gbs * 1e9 * hardware.count * BANDWIDTH_SHARE)


def _kept_bytes(shape: Shape, tokens: int) -> float:
    """Return the bytes of one request's KV cache that a decode step reads, on all devices together."""
    if shape.model is not None:
        return shape.model.kv_bytes(tokens)
    local = (shape.chunked + shape.sliding) * min(tokens, shape.window)
    return 4.0 * shape.kv_heads * shape.head_dim * (shape.full * tokens + local)


def answers_s(
    shape: Shape, context_tokens: int, output_tokens: int, requests: int, at_once: int, hardware: Hardware
) -> float:
    """
    Return the expected seconds to decode the answers of *requests*, *at_once* of them at a time; 0 if the bandwidth is
    unknown.
    """
    step_s = decode_step_s(shape, context_tokens, at_once, hardware)
    return 0.0 if step_s is None else step_s * output_tokens * ceil(requests / max(1, at_once))


class Span(NamedTuple):
    """An expected time with its lower and upper bound, in seconds."""

    low_s: float
    expected_s: float
    high_s: float


def from_measured(shape: Shape, measured_tokens: int, measured_s: float, tokens: int, hardware: Hardware) -> Span:
    """
    Return the expected time of a prompt of *tokens* on a server that took *measured_s* for a prompt of
    *measured_tokens*.

    The time is a x N + b x N^2, and neither part is faster than the peak of *hardware* allows, so one measurement
    bounds both. At the lower bound attention runs at the peak; at the upper bound everything else does. The expected
    time has attention at `ATTENTION_SHARE`. For a device of unknown peak, the bounds are a time without attention and a
    time of attention only.
    """
    products, local, full = roofline.prefill_terms(shape)
    peak = roofline.PEAK_TFLOPS.get(hardware.kind, {}).get(2)
    flop_per_s = None if peak is None else peak * 1e12 * hardware.count
    ratio = tokens / measured_tokens
    whole = (products + local) * measured_tokens + full * measured_tokens**2
    quadratic = full * measured_tokens**2 / whole if whole else 0.0
    if flop_per_s is None:
        least, most, usual = 0.0, measured_s if full else 0.0, quadratic * measured_s
    else:
        least = min(measured_s, full * measured_tokens**2 / flop_per_s)
        most = max(least, measured_s - (products + local) * measured_tokens / flop_per_s)
        usual = min(max(least / ATTENTION_SHARE, least), most)
    grown = [ratio * measured_s + (ratio**2 - ratio) * part for part in (least, usual, most)]
    return Span(min(grown), grown[1], max(grown))
