"""
Judge an observation against a finding, and compare both with the prediction.

Verdicts are pure: the same evidence always gives the same verdict. If two of prediction, finding and observation of a
boot agree, the third is reported as wrong. Boots that memory does not decide, or that no formula covers, are not
compared.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from pytest_longctx.deployments.capacity import Prediction
from pytest_longctx.findings.finding import Bound, Finding
from pytest_longctx.measures import MEASURES
from pytest_longctx.observation import Observation, Outcome
from pytest_longctx.units import GiB, quantity

Word = Literal["holds", "broken", "unmeasured", "out of scope", "known"]

WORST_FIRST: tuple[Word, ...] = ("broken", "unmeasured", "known", "out of scope", "holds")

COLD_SHARE = 0.01
"""A measurement with a larger share of cached prompt tokens is not cold (vLLM's own benchmark warns from here)."""

OFFERED_SHARE = 0.8
"""An open loop with a smaller share of the requested rate has not tested the server at that rate."""

WARM_SHARE = 0.5
"""A measurement with a smaller share of cached prompt tokens is not warm."""

CLOCKS_APART_S = 0.2
"""
Longest delay of the client's first token after the server's, for any prompt, due to transport and scheduling.

Idle machines need 0.04 s. On two busy cores, 0.125 s was measured with 1,000 tokens.
"""
CLOCKS_APART_S_PER_TOKEN = 4e-6
"""Additional time per token id in the body. A server parses it before it starts its clock: vLLM takes 0.2 to 1 us."""
CLOCKS_APART_SHARE = 0.05
"""Additional share of the TTFT, because a busy machine delays both clocks."""

BUSY_GAPS = 4.0
"""Largest multiple of the allowed gap that a load explains: 1.6 was seen. A proxy that holds a stream takes far more."""

BUSY_SHARE = 0.75
"""With less the devices waited: long prefills on one H200 had 0.91 to 0.99, and 0.20 and 0.47 while SGLang's host walked."""
LONG_S = 10.0
"""Shortest TTFT with a judged busy share: samples are a second apart, and both ends of a request are idle."""


@dataclass(frozen=True, slots=True)
class Line:
    """One compared measure. *ok* is None without evidence."""

    measure: str
    seen: str
    wanted: str
    ok: bool | None
    change: str = ""
    """How a documented failure has changed."""

    def __str__(self) -> str:
        return f"{self.measure}: {self.seen}, wanted {self.wanted}" + (f" ({self.change})" if self.change else "")


@dataclass(frozen=True, slots=True, repr=False)
class Verdict:
    """The verdict on one finding. As a boolean, it is true only if the finding holds."""

    finding: Finding
    word: Word
    lines: tuple[Line, ...] = ()
    observation: Observation | None = None
    reason: str = ""
    remark: str = ""
    """A remark that is independent of the verdict, such as a wrong prediction."""

    def __bool__(self) -> bool:
        return self.word == "holds"

    @property
    def broken(self) -> tuple[Line, ...]:
        """The lines of the verdict that are not met."""
        return tuple(line for line in self.lines if line.ok is False)

    @property
    def why(self) -> str:
        """The reason for the verdict in one line."""
        if self.reason:
            return self._with_remark(self.reason)
        wanted = False if self.word in ("broken", "known") else None
        deciding = [str(line) for line in self.lines if line.ok is wanted] if self.word != "holds" else []
        message = self.observation.said if self.observation and deciding else ""
        return self._with_remark("; ".join(deciding) + (f' ("{_short(message)}")' if message else ""))

    def _with_remark(self, why: str) -> str:
        return "; ".join(part for part in (why, self.remark) if part)

    def __repr__(self) -> str:
        return f"{self.finding.id} {self.word}" + (f": {self.why}" if self.why else "")


def out_of_scope(finding: Finding, line: str) -> Verdict:
    """Return the verdict "out of scope" on a finding that does not apply to this server."""
    return Verdict(finding, "out of scope", reason=line)


def judge(
    finding: Finding, seen: Observation, also: Iterable[Line] = (), remark: str = "", warmed: str = ""
) -> Verdict:
    """
    Return the verdict on *seen* by all expectations and bounds of *finding* and the lines of *also*, with *remark*.

    *warmed* is the reason why the cache may have had the prompt before this run. A cached prompt then proves nothing.
    """
    remark = "; ".join(filter(None, (remark, _idled(seen))))
    lines = (*_expected(finding, seen), *_laws(finding, seen, warmed), *_bounded(finding, seen), *also)
    if any(line.ok is False for line in lines):
        return Verdict(finding, "known" if finding.known else "broken", lines, seen, remark=remark)
    if any(line.ok is None for line in lines):
        # If the server was still working, its progress is the reason, not the missing observations.
        reason = seen.said if seen.outcome is None and seen.kind == "too-slow" else ""
        return Verdict(finding, "unmeasured", lines, seen, reason=reason, remark=remark)
    if finding.known:
        gone = f"the known failure no longer occurs: remove `known` ({finding.known.issue}) from the finding"
        return Verdict(finding, "broken", lines, seen, reason=gone, remark=remark)
    return Verdict(finding, "holds", lines, seen, remark=remark)


def _idled(seen: Observation) -> str:
    """Return a remark on a long prefill during which the devices mostly waited; empty otherwise."""
    busy, ttft_s = seen.metrics.get("device_busy_share"), seen.metrics.get("ttft_s")
    if busy is None or ttft_s is None or busy >= BUSY_SHARE or ttft_s < LONG_S:
        return ""
    return f"the devices were busy only {busy:.0%} of the time: the host or its link to them was the bottleneck"


def _expected(finding: Finding, seen: Observation) -> Iterator[Line]:
    expect = finding.expect
    if seen.outcome is None:
        yield Line("outcome", "not observed", expect.outcome, None)
        return
    if seen.outcome != expect.outcome:
        # The server's message explains another outcome; further lines would not.
        yield Line("outcome", seen.outcome, expect.outcome, ok=False, change=_change(finding, seen))
        return
    yield Line("outcome", seen.outcome, expect.outcome, ok=True)
    if expect.phase is not None:
        yield Line("phase", seen.phase or "not seen", expect.phase, seen.phase == expect.phase)
    if expect.signature is not None:
        found = seen.signature or "no known signature"
        same = seen.signature == expect.signature
        yield Line("signature", found, expect.signature, same, "" if same else _change(finding, seen))
    if expect.notice is not None:
        noticed = seen.words.get("notices", "")
        yield Line("notice", noticed or "none in the log", expect.notice, expect.notice in noticed.split(", "))


def _change(finding: Finding, seen: Observation) -> str:
    """Return how a documented failure has changed: three kinds of change, each with its own remedy."""
    expect = finding.expect
    if expect.outcome == "serves":
        return ""
    documented = expect.signature or f"{expect.outcome!r}"
    if seen.outcome == "serves":
        gone = "a clean start" if finding.question == "boot-fails" else "it is served"
        return f"the finding has changed: {gone} instead of {documented}"
    if seen.outcome in ("hangs", "is not admitted"):
        return f"the finding has changed: a timeout instead of {documented}"
    found = seen.signature or seen.kind or "an unknown one"
    return f"the finding has changed: another cause, {found} instead of {documented}"


def _laws(finding: Finding, seen: Observation, warmed: str) -> Iterator[Line]:
    """Yield verdict lines for every served request, whatever the finding expects. A limit in the finding replaces a rule."""
    if seen.outcome != "serves":
        return
    limited = {name for name, bound in finding.bounds.items() if bound.limits != (None, None)}
    asked = finding.ask.prompt_tokens
    if seen.sent_tokens is not None and asked is not None and seen.sent_tokens != asked:
        # A finding about 100,000 tokens does not hold because ten were served.
        yield Line("prompt sent", quantity(seen.sent_tokens, "tokens"), quantity(asked, "tokens"), ok=False)
    yield from _counted(seen, limited)
    yield from _clocked(seen, limited)
    yield from _cache_was_as_wanted(finding, seen, limited, warmed)
    yield from _offered(seen, limited)
    if "answers_changed" in seen.metrics and "answers_changed" not in limited and not _damaged(finding):
        yield _held("answers_changed", seen.metrics["answers_changed"], Bound(unit="requests", exactly=0))
    yield from _sound(seen, limited)
    peak = seen.metrics.get("peak_share")
    if peak is not None and "peak_share" not in limited:
        yield _held("peak_share", peak, Bound(unit="", at_most=1.0))


def _offered(seen: Observation, limited: set[str]) -> Iterator[Line]:
    """Yield the verdict line on the rate of an open loop. A client that sent too slowly leaves the finding unmeasured."""
    share = seen.metrics.get("offered_share")
    if share is None or "offered_share" in limited:
        return
    offered = _held("offered_share", share, Bound(unit="", at_least=OFFERED_SHARE))
    late = "the client sent too slowly; use a machine with less load, or a lower rate"
    yield offered if offered.ok else replace(offered, ok=None, change=late)


_CANARIES = ("corrupted_requests", "kv_canary_violations")
"""Measures of an engine's own reports of corruption while it answers; absent if the engine does not check."""


def _damaged(finding: Finding) -> bool:
    """Return whether *finding* asks the engine to report corruption that its deployment injects: any answer may change."""
    return any((finding.bounds[name].limits[0] or 0) > 0 for name in _CANARIES if name in finding.bounds)


def _sound(seen: Observation, limited: set[str]) -> Iterator[Line]:
    """Yield verdict lines on the engine's own reports of corruption, which must be zero."""
    for name in _CANARIES:
        if name in seen.metrics and name not in limited:
            yield _held(name, seen.metrics[name], Bound(unit=MEASURES[name].unit, exactly=0))


def _counted(seen: Observation, limited: set[str]) -> Iterator[Line]:
    """Return verdict lines on token counts: usage and counters equal what was sent and asked. None: a key was not found."""
    for measure, sent in (("prompt_tokens", seen.sent_tokens), ("completion_tokens", seen.asked_tokens)):
        if sent is None:
            continue
        counter, unit = f"server_{measure}", MEASURES[measure].unit
        if measure not in limited:
            yield _held(measure, seen.metrics.get(measure), Bound(unit=unit, exactly=sent))
        # If a finding documents a count other than the sent one, usage and counters must still agree.
        wanted = seen.metrics.get(measure) if measure in limited else sent
        if counter in seen.metrics and counter not in limited and wanted is not None:
            yield _held(counter, seen.metrics[counter], Bound(unit=unit, exactly=wanted))
    if "ledger_gap_tokens" in seen.metrics:
        yield _held("ledger_gap_tokens", seen.metrics["ledger_gap_tokens"], Bound(unit="tokens", exactly=0))


def _clocked(seen: Observation, limited: set[str]) -> Iterator[Line]:
    """
    Yield the verdict line on the first token, on which the client's clock and the server's clock must agree.

    With more runnable processes than cores, both wait. The allowed gap then grows with the load, unless the finding
    bounds a time. A larger gap leaves the finding unmeasured.
    """
    if "ttft_gap_s" not in seen.metrics or "ttft_gap_s" in limited or seen.sent_tokens is None:
        return
    load, gap_s = max(1.0, seen.metrics.get("host_load") or 0.0), seen.metrics["ttft_gap_s"]
    apart_s = CLOCKS_APART_S + CLOCKS_APART_S_PER_TOKEN * seen.sent_tokens
    apart_s += CLOCKS_APART_SHARE * (seen.metrics.get("ttft_s") or 0.0)
    apart_s *= 1.0 if any(MEASURES[name].cold_only for name in limited) else load
    line = _held("ttft_gap_s", gap_s, Bound(unit="s", at_least=-CLOCKS_APART_S, at_most=apart_s))
    busy = f"this machine had {load:.1f} runnable processes for each core, which delays the client as well"
    yield replace(line, ok=None, change=busy) if load > 1 and apart_s < (gap_s or 0.0) <= BUSY_GAPS * apart_s else line


def _cache_was_as_wanted(finding: Finding, seen: Observation, limited: set[str], warmed: str) -> Iterator[Line]:
    """Yield the verdict line on the cache: cold for a bounded time, and warm for a repeated prompt."""
    if "cached_share" in limited:
        return
    times_bounded = any(MEASURES[name].cold_only or name == "warm_speedup" for name in limited)
    share = seen.metrics.get("cached_share")
    # Without a bounded time, a cache that cannot be observed does not matter; an observed hit always does.
    if share is None and not times_bounded:
        return
    if finding.question == "repeated":
        yield _held("cached_share", share, Bound(unit="", at_least=WARM_SHARE))
        return
    cold = _held("cached_share", share, Bound(unit="", at_most=COLD_SHARE))
    if cold.ok is False and _as_if_transferred(seen):
        cold = replace(cold, ok=None, change=_TRANSFERRED)
    yield replace(cold, ok=None, change=warmed) if warmed and cold.ok is False else cold


_TRANSFERRED = (
    "all but the last token, and no counter says from where: a decode role counts the KV cache that it receives in this way; "
    "attach to the role itself, or set `disaggregated` in the backend of the pair"
)


def _as_if_transferred(seen: Observation) -> bool:
    """
    Return whether a decode role may have received the cached tokens: it computes only the last token of a prompt.

    If a server's counters separate its own cache from what it received, there is no doubt.
    """
    cached = seen.metrics.get("cached_tokens")
    return (
        seen.sent_tokens is not None and cached == seen.sent_tokens - 1 and "server_cached_tokens" not in seen.metrics
    )


def _bounded(finding: Finding, seen: Observation) -> Iterator[Line]:
    if seen.outcome is None:
        return  # the outcome line reports it, with the reason in the observation
    for name, bound in finding.bounds.items():
        if bound.sigmas is not None and (stderr := seen.metrics.get(f"{name}_stderr")) is not None:
            yield _held(name, seen.metrics.get(name), bound, stderr)
        elif bound.sigmas is not None:
            yield Line(f"{name}_stderr", "not observed", "a standard error to judge with", None)
        elif bound.limits != (None, None):
            yield _held(name, seen.metrics.get(name), bound)


def _held(measure: str, value: float | None, bound: Bound, stderr: float = 0.0) -> Line:
    low, high = limits = bound.limits_given(stderr)
    if value is None:
        return Line(measure, "not observed", _wanted(bound, limits), None)
    ok = (low is None or value >= low) and (high is None or value <= high)
    return Line(measure, quantity(value, bound.unit), _wanted(bound, limits), ok)


def _wanted(bound: Bound, limits: tuple[float | None, float | None]) -> str:
    low, high = limits
    around = "" if bound.reference is None else f" (documented {quantity(bound.reference, bound.unit)})"
    if low == high and low is not None:
        return f"exactly {quantity(low, bound.unit)}{around}"
    sides = [f"{sign} {quantity(side, bound.unit)}" for sign, side in ((">=", low), ("<=", high)) if side is not None]
    return " and ".join(sides) + around


def _short(text: str, most: int = 160) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 3]}..."


DECIDED_BY_MEMORY: frozenset[Outcome] = frozenset({"serves", "refuses", "runs out of memory", "overcommits", "dies"})

EARLY_PHASES = ("config", "start")
"""Phases in which nothing is allocated yet."""

SIZES_APART = 0.05
"""Allowed relative difference of a predicted and a logged size. Device memory and builds differ by 1 or 2 %."""

ROUNDED_GIB = 0.005
"""Rounding of sizes in logs: hundredths of a GiB."""


def concerns_memory(finding: Finding) -> bool:
    """Return whether a verdict on *finding* is about a boot's memory use. A refused flag is not."""
    expect = finding.expect
    return (
        finding.question.startswith("boot") and expect.outcome in DECIDED_BY_MEMORY and expect.phase not in EARLY_PHASES
    )


def remark(finding: Finding, predicted: Prediction | None, seen: Observation) -> str:
    """Return a remark on how prediction, *finding* and *seen* disagree, and which is wrong; empty if they agree."""
    if predicted is None or predicted.doubt or seen.outcome is None or not concerns_memory(finding):
        return ""
    expect, foretold = finding.expect, _foretold(predicted)
    documented = seen.outcome == expect.outcome and expect.signature in (None, seen.signature)
    meant = seen.outcome == predicted.outcome
    if documented and not meant:
        wrong = "the prediction is wrong, or this machine differs from the assumed machine"
        return f"predicted {foretold}, but {_end(seen)} as documented: {wrong}"
    if meant and not documented:
        what = (
            "not by the documented cause" if seen.outcome == expect.outcome else f"documented {_wanted_word(finding)}"
        )
        return f"predicted {foretold}, and {_end(seen)}, {what}: the finding is wrong, or its cause has changed"
    if not meant and predicted.outcome == expect.outcome:
        return f"predicted {foretold} as documented, but {_end(seen)}: the engine has changed, or the machine differs"
    if not meant:
        return f"predicted {foretold}, documented {_wanted_word(finding)}, and {_end(seen)}: all three disagree"
    return "; ".join(_sizes(predicted, seen))


def _sizes(predicted: Prediction, seen: Observation) -> Iterator[str]:
    """Yield remarks on predicted sizes that differ from the logged size of the predicted failure."""
    refused = predicted.culprit if predicted.outcome == "refuses" else None
    for name, size_bytes in (
        ("allocation_gib", predicted.failing_bytes),
        ("kv_needed_gib", refused.size_bytes if refused else None),
    ):
        logged = seen.metrics.get(name)
        if size_bytes is None or logged is None or abs(size_bytes / GiB - logged) <= SIZES_APART * logged + ROUNDED_GIB:
            continue
        sizes = f"predicted to fail at {size_bytes / GiB:.2f} GiB, failed at {logged:.2f} GiB"
        yield f"{sizes}: the predicted size is wrong, or another allocation failed"


def _foretold(predicted: Prediction) -> str:
    if predicted.fits:
        return "to fit"
    size = f" at {predicted.failing_bytes / GiB:.2f} GiB" if predicted.failing_bytes else ""
    return f"that it {predicted.outcome}{size} ({predicted.culprit})"


def _wanted_word(finding: Finding) -> str:
    return f"that it {finding.expect.outcome}" + (f" ({finding.expect.signature})" if finding.expect.signature else "")


def _end(seen: Observation) -> str:
    if seen.outcome == "serves":
        return "it started"
    cause = seen.signature or seen.kind
    return f"it {seen.outcome}" + (f" ({cause})" if cause else "")


JUDGED = ("holds", "broken", "known", "unmeasured")
