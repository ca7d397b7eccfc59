"""
Check published figures by arithmetic alone, without a server.

The rules also apply to new measurements: a rate above the hardware's peak, a prompt answered from a cache, a prompt
divided by the window of a log.
"""

from collections.abc import Iterator

from pytest_longctx.deployments import roofline, shape
from pytest_longctx.deployments.hardware import Hardware
from pytest_longctx.deployments.shape import Shape
from pytest_longctx.errors import TableError, unknown
from pytest_longctx.findings.ask import Claim, NumberFormat
from pytest_longctx.findings.verdicts import COLD_SHARE
from pytest_longctx.observation import Observation
from pytest_longctx.units import GiB

OFF = 0.1
"""Relative tolerance of a claimed size, ratio or time, because published figures are rounded."""

LOG_WINDOW_S = 10.0
"""
Length of vLLM's log window. The logged rate counts the prompts whose first token fell in it, divided by this length.
"""
LOG_WINDOW_SLACK = 1e-3
"""Relative tolerance of the window length. The five published rates differ by less."""


def observe(claim: Claim) -> Observation:
    """
    Return whether *claim* ``adds up`` or ``cannot be``, with the reason, by arithmetic. Raises `TableError` for an
    unknown shape.
    """
    if claim.shape is not None and claim.shape not in shape.known():
        raise TableError(f"claim.shape: {unknown('shape', claim.shape, shape.known())}")
    metrics = {**_of_the_figures(claim)}
    if claim.shape is not None and claim.tokens is not None:
        metrics |= _of_the_shape(claim, claim.tokens, shape.known()[claim.shape])
    wrong = list(_contradictions(metrics))
    return Observation("cannot be" if wrong else "adds up", metrics, phase="arithmetic", said="; ".join(wrong))


def _of_the_figures(claim: Claim) -> dict[str, float | None]:
    """Return figures that follow from the published figures of a claim alone; None for one that cannot be computed."""
    largest = None if claim.number_format is None else largest_value(claim.number_format)
    return {
        "cached_share": _over(claim.cached_tokens, claim.tokens),
        "log_window_s": _over(claim.tokens, claim.logged_tokens_per_s),
        "speedup_claim_ratio": _over(claim.speedup, _over(claim.slow_s, claim.fast_s)),
        "largest_claim_ratio": _over(claim.largest, largest),
    }


def _of_the_shape(claim: Claim, tokens: int, model: Shape) -> dict[str, float | None]:
    """Return figures of a claim that follow from the model's shape and the hardware; None for one that cannot be computed."""
    here = Hardware.parse(claim.hardware) if claim.hardware else None
    devices = here.count if here else 1
    kv_gib = model.kv_bytes_per_token(claim.value_bytes) * tokens / GiB
    weights_gib = model.parameters * 2 / devices / GiB
    peak_share = None
    if here is not None and claim.read_s is not None:
        peak_share = roofline.peak_share(model, tokens, claim.read_s, here, claim.value_bytes)
    return {
        "peak_share": peak_share,
        "kv_gib": kv_gib,
        "kv_claim_ratio": _over(claim.kv_gib, kv_gib),
        "weights_claim_ratio": _over(claim.weights_gib, weights_gib),
        "kv_gib_per_s": _over(kv_gib, claim.moved_s),
        "kv_rate_claim_ratio": _over(claim.moved_gib_per_s, _over(kv_gib, claim.moved_s)),
    }


def largest_value(number_format: NumberFormat) -> float:
    """
    Return the largest finite value of an 8-bit number format, to check a published claim.

    >>> [largest_value(name) for name in ("e4m3fn", "e4m3fnuz", "e5m2", "e5m2fnuz")]
    [448.0, 240.0, 57344.0, 57344.0]
    """
    exponent_bits, mantissa_bits = int(number_format[1]), int(number_format[3])
    kind = number_format[4:]
    bias = 2 ** (exponent_bits - 1) - (kind != "fnuz")
    # IEEE keeps the highest exponent for infinities and NaN; fn only its highest mantissa, fnuz nothing.
    exponent = 2**exponent_bits - (1 if kind else 2) - bias
    mantissa = 2 - 2.0**-mantissa_bits * (2 if kind == "fn" else 1)
    return float(2**exponent * mantissa)


def _over(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole


def _contradictions(metrics: dict[str, float | None]) -> Iterator[str]:
    seen = {name: value for name, value in metrics.items() if value is not None}
    if seen.get("peak_share", 0) > 1:
        yield f"it would need {seen['peak_share']:.2f} times the hardware's peak"
    if seen.get("cached_share", 0) > COLD_SHARE:
        yield f"a cache answered {seen['cached_share']:.1%} of the prompt"
    if abs(seen.get("log_window_s", 0) / LOG_WINDOW_S - 1) < LOG_WINDOW_SLACK:
        yield f"the rate is the prompt divided by the log window of {LOG_WINDOW_S:.0f} s"
    for name, value in seen.items():
        if name.endswith("_claim_ratio") and abs(value - 1) > OFF:
            yield f"{name.removesuffix('_claim_ratio')} is {value:.2f} times the computed value"
