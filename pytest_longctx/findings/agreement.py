"""
Whether prediction, finding and observation of a boot agree; where they do not, which of the three is wrong.

Two that agree stand against the third. What neither memory decides nor a formula covers is not spoken of.
"""

from collections.abc import Iterator

from pytest_longctx.deployments.capacity import Prediction
from pytest_longctx.findings.finding import Finding
from pytest_longctx.observation import Observation, Outcome
from pytest_longctx.units import GiB

DECIDED_BY_MEMORY: frozenset[Outcome] = frozenset({"serves", "refuses", "runs out of memory", "overcommits", "dies"})

EARLY_PHASES = ("config", "start")
"""Nothing is allocated before these are over."""

SIZES_APART = 0.05
"""How far a predicted size may lie from the logged one: device memory and builds move them by 1 or 2 %."""

ROUNDED_GIB = 0.005
"""Engines log sizes to hundredths of a GiB."""


def concerns_memory(finding: Finding) -> bool:
    """Whether *finding* says what a boot's memory comes to; a flag that is refused is nothing that memory decides."""
    expect = finding.expect
    return (
        finding.question.startswith("boot") and expect.outcome in DECIDED_BY_MEMORY and expect.phase not in EARLY_PHASES
    )


def remark(finding: Finding, predicted: Prediction | None, seen: Observation) -> str:
    """What prediction, *finding* and *seen* disagree about and who is wrong, as a sentence; empty where they agree."""
    if predicted is None or seen.outcome is None or not concerns_memory(finding):
        return ""
    expect, foretold = finding.expect, _foretold(predicted)
    documented = seen.outcome == expect.outcome and expect.signature in (None, seen.signature)
    meant = seen.outcome == predicted.outcome
    if documented and not meant:
        wrong = "the prediction is wrong, or the machine is not the one it assumes"
        return f"predicted {foretold}, but {_end(seen)} as documented: {wrong}"
    if meant and not documented:
        what = "not by the documented cause" if seen.outcome == expect.outcome else f"documented {_wanted(finding)}"
        return f"predicted {foretold}, and {_end(seen)}, {what}: the finding is wrong, or its cause has changed"
    if not meant and predicted.outcome == expect.outcome:
        return (
            f"predicted {foretold} as documented, but {_end(seen)}: the engine has changed, or the machine is another"
        )
    if not meant:
        return f"predicted {foretold}, documented {_wanted(finding)}, and {_end(seen)}: no two of them agree"
    return "; ".join(_sizes(predicted, seen))


def _sizes(predicted: Prediction, seen: Observation) -> Iterator[str]:
    """Predicted sizes that a failure of the predicted kind did not have."""
    refused = predicted.culprit if predicted.outcome == "refuses" else None
    for name, size_bytes in (
        ("allocation_gib", predicted.failing_bytes),
        ("kv_needed_gib", refused.size_bytes if refused else None),
    ):
        logged = seen.metrics.get(name)
        if size_bytes is None or logged is None or abs(size_bytes / GiB - logged) <= SIZES_APART * logged + ROUNDED_GIB:
            continue
        said = f"predicted to fail over {size_bytes / GiB:.2f} GiB, failed over {logged:.2f} GiB"
        yield f"{said}: the predicted size is wrong, or it failed over something else"


def _foretold(predicted: Prediction) -> str:
    if predicted.fits:
        return "to fit"
    size = f" at {predicted.failing_bytes / GiB:.2f} GiB" if predicted.failing_bytes else ""
    return f"that it {predicted.outcome}{size} ({predicted.culprit})"


def _wanted(finding: Finding) -> str:
    return f"that it {finding.expect.outcome}" + (f" ({finding.expect.signature})" if finding.expect.signature else "")


def _end(seen: Observation) -> str:
    if seen.outcome == "serves":
        return "it came up"
    cause = seen.signature or seen.kind
    return f"it {seen.outcome}" + (f" ({cause})" if cause else "")
