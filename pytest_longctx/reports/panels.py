"""
Panels of a report: the plots and tables beside the verdicts.

A panel is shown only if the results file has the rows it needs. The panels cover rates over length, memory, retrieval by
position, boots and requests over time, and gauges of servers and devices.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pytest_longctx.findings.ttft_law import Law
from pytest_longctx.reports import analysis
from pytest_longctx.reports.analysis import LengthPoint
from pytest_longctx.reports.plots import Axis, Bar, Bars, Chart, Grid, Panel, Part, Segment, Series, Table
from pytest_longctx.reports.results import Results
from pytest_longctx.units import GiB, duration

_MOST_POINTS = 200
"""Points of one small chart, whose width is 220 pixels."""
_DEPTHS = 20
"""Cells of a retrieval map: one for each 5 % of the prompt."""
LAW_LENGTHS = 3
"""Fewest lengths that a law is drawn through: two points always fit."""
LENGTHS_APART = 1.5
"""Ratio from which two lengths count as two."""
LAW_WITHIN = 0.25
"""Largest relative error that a plotted law may have at any of its lengths."""
_MOST_CHARTS = 12
"""Deployments whose times are drawn; the table has all."""
_MOST_BOOTS = 8
"""Number of boots whose memory is drawn: the boots with the largest error of the prediction. The table has all boots."""


def timeline(results: Results) -> Iterator[Panel]:
    """Yield the panel of boots and requests over time, with the idle time; nothing without data."""
    booted = [
        (one.get("deployment", ""), one["started_s"], one["started_s"] + one["seconds"], 0)
        for one in results.boots
        if one.get("started_s") and "seconds" in one
    ]
    asked = [(one["deployment"], one["started_s"], one["ended_s"], 1) for one in results.requests]
    spans = sorted((*booted, *asked), key=lambda span: span[1])
    if not spans:
        return
    zero, end = spans[0][1], max(span[2] for span in spans)
    bars, rows = [], []
    for name in dict.fromkeys(span[0] for span in spans):
        its = [span for span in spans if span[0] == name]
        boot_s = sum(stop - start for _, start, stop, kind in its if kind == 0)
        busy_s = _covered([span[1:3] for span in its if span[3]])
        requests = sum(kind for *_, kind in its)
        segments = tuple(Segment(start - zero, stop - start, kind) for _, start, stop, kind in its)
        bars.append(Bar(name, segments, f"boot {duration(boot_s)}" if boot_s else ""))
        rows.append((name, f"{its[0][1] - zero:.1f} s", duration(boot_s), str(requests), duration(busy_s)))
    idle_s = end - zero - _covered([span[1:3] for span in spans])
    plot = Bars(
        "timeline",
        "Boots and requests over the time of the run",
        Axis("seconds since the first boot"),
        tuple(bars),
        ("boot", "request"),
    )
    note = f"{duration(end - zero)} from the first boot to the last request, {duration(idle_s)} of it idle."
    columns = ("deployment", "from", "booting", "requests", "answering")
    yield Panel("Timeline", note, (plot,), Table(columns, rows), "timeline")


def _covered(spans: Sequence[tuple[float, float]]) -> float:
    """Return the time on the timeline panel covered by at least one of *spans*, which are sorted by start."""
    total, reached = 0.0, float("-inf")
    for start, stop in spans:
        total += max(0.0, stop - max(start, reached))
        reached = max(reached, stop)
    return total


Points = list[tuple[float, float]]


def vitals(rows: Sequence[dict[str, Any]]) -> Iterator[Panel]:
    """Yield the panel of vitals: each gauge over the time of the run as one small chart, with the logged notices."""
    gauges: dict[str, dict[str, dict[int | None, Points]]] = {}
    for one in rows:
        for name, value in one["figures"].items():
            for device, each in enumerate(value) if isinstance(value, list) else [(None, value)]:
                if each is not None:
                    its = gauges.setdefault(name, {}).setdefault(one.get("deployment", ""), {})
                    its.setdefault(device, []).append((one["at_s"], each))
    notices = list(dict.fromkeys(one["said"] for one in rows if "said" in one))
    if not gauges and not notices:
        return
    zero = min(one["at_s"] for one in rows)
    plots = tuple(
        Chart(
            f"vitals-{name}",
            f"{name} over the time of the run",
            Axis("s"),
            (Part(Axis(name), tuple(_stretches(by_deployment, zero))),),
            small=True,
        )
        for name, by_deployment in sorted(gauges.items())
    )
    table = [
        (name, key, "" if device is None else str(device), str(len(points)), *_summary([value for _, value in points]))
        for key, by_deployment in sorted(gauges.items())
        for name, its in by_deployment.items()
        for device, points in sorted(its.items(), key=lambda pair: pair[0] or 0)
    ]
    yield Panel(
        "Vitals",
        " ".join(
            [
                "Gauges that the server and the machine reported; one line for each deployment.",
                *(f"{line}." for line in notices),
            ]
        ),
        plots,
        Table(("deployment", "figure", "device", "readings", "least", "most", "last"), table),
        "vitals",
        folded=True,
    )


def _summary(values: Sequence[float]) -> tuple[str, ...]:
    return tuple(f"{value:.4g}" for value in (min(values), max(values), values[-1]))


def _stretches(by_deployment: dict[str, dict[int | None, Points]], zero: float) -> Iterator[Series]:
    """Yield the plotted series of a gauge: one for each deployment, or the highest and the lowest of several devices."""
    most = max(_MOST_POINTS // max(len(by_deployment), 1), 2)
    for its in by_deployment.values():
        if len(its) == 1:
            (points,) = its.values()
            yield Series("gauge", _thinned(points, zero, max, most), line=True)
            continue
        for label, pick in (("highest device", max), ("lowest device", min)):
            at: dict[float, float] = {}
            for at_s, value in (point for points in its.values() for point in points):
                at[at_s] = pick(at.get(at_s, value), value)
            yield Series(label, _thinned(sorted(at.items()), zero, pick, most), line=True)


def _thinned(points: Points, zero: float, pick: Callable[..., Any], most: int) -> tuple[tuple[float, float], ...]:
    """
    Return the plotted points of a gauge at the chart's resolution. Each stretch keeps its most extreme value, so peaks
    stay visible.
    """
    step = -(-len(points) // most)
    stretches = (points[i : i + step] for i in range(0, len(points), step))
    return tuple((at - zero, value) for at, value in (pick(some, key=lambda point: point[1]) for some in stretches))


def retrieval(rows: Sequence[dict[str, Any]]) -> Iterator[Panel]:
    """
    Yield the panel of retrieval: at which depths of the prompt the hidden facts were found, one row for each deployment
    and length.
    """
    found: dict[tuple[str, int], dict[int, list[float]]] = {}
    for one in rows:
        its = found.setdefault((one.get("deployment", ""), one["prompt_tokens"]), {})
        its.setdefault(min(int(one["depth"] * _DEPTHS), _DEPTHS - 1), []).append(one["score"])
    if not found:
        return
    cells, names, texts = [], [], []
    for (name, tokens), its in sorted(found.items()):
        scores = [score for some in its.values() for score in some]
        names.append(f"{name}, {tokens:,} tokens")
        texts.append(f"{_count(sum(scores))} of {len(scores)}")
        cells.append(tuple(_mean(its.get(depth, [])) for depth in range(_DEPTHS)))
    columns = tuple(f"{100 * depth // _DEPTHS}%" if depth % 5 == 0 else "" for depth in range(_DEPTHS))
    title = "Hidden facts found, by depth in the prompt"
    grid = Grid("needles", title, Axis("depth in the prompt"), columns, tuple(names), tuple(cells), tuple(texts))
    table = [
        (name, text, *("" if share is None else f"{100 * share:.0f}%" for share in some))
        for name, text, some in zip(names, texts, cells, strict=True)
    ]
    depths = tuple(f"{100 * depth // _DEPTHS}%" for depth in range(_DEPTHS))
    every = [one["score"] for one in rows]
    note = f"{_count(sum(every))} of {len(every)} hidden facts were found."
    yield Panel("Needles", note, (grid,), Table(("prompt", "found", *depths), table), "needles")


def _count(score: float) -> str:
    return f"{score:.0f}" if float(score).is_integer() else f"{score:.1f}"


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


_LEAST_NATS = 1e-12
"""Lower end of the axis of a drift: an engine whose reads are equal has none, which a logarithmic axis cannot show."""


def drift(rows: Sequence[dict[str, Any]]) -> Iterator[Panel]:
    """
    Yield the panel of drifts: how far the predictions of each pair of deployments differ, over the distance from the
    start.
    """
    pairs: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for one in sorted(rows, key=lambda each: each["from_tokens"]):
        pairs.setdefault((one.get("deployment", ""), one.get("against", ""), one.get("finding", "")), []).append(one)
    plots, table = [], []
    for (name, against, finding), curve in pairs.items():
        middles = [(one["from_tokens"] * max(one["to_tokens"] - 1, 1)) ** 0.5 for one in curve]
        series = tuple(
            Series(
                label, tuple((x, max(one[key], _LEAST_NATS)) for x, one in zip(middles, curve, strict=True)), line=True
            )
            for label, key in (("drift", "drift_nats"), ("noise of the reference", "noise_nats"))
        )
        title = f"Drift over the distance from the start, {name} against {against}"
        part = Part(Axis("nats", log=True), series)
        plots += [Chart(f"drift-{finding}-{name}", title, Axis("tokens", log=True), (part,))]
        table += [(name, against, *_stretch(one)) for one in curve]
    if plots:
        note = (
            "Mean KL divergence of the predictions, in nats (a lower bound), beside that of two reads of the reference. "
            f"Values below {_LEAST_NATS:.0e} are drawn there."
        )
        columns = ("deployment", "reference", "positions", "drift, nats", "noise, nats", "most probable token changed")
        yield Panel("Drift", note, tuple(plots[:_MOST_CHARTS]), Table(columns, table), "drift")


def _stretch(one: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the cells of one stretch of the curve of a drift."""
    figures = (f"{one[key]:.3g}" for key in ("drift_nats", "noise_nats"))
    return (f"{one['from_tokens']:,} to {one['to_tokens'] - 1:,}", *figures, f"{one['argmax_changed']:.2%}")


_TOKENS = Axis("prompt tokens", log=True)


def panels(results: Results) -> Iterator[Panel]:
    """Yield every panel for which *results* has data, in reading order."""
    yield from _lengths({name: its for name, its in analysis.cold(results).items() if len(its) > 1})
    yield from _memory(results.boots)
    yield from retrieval(results.retrievals)
    yield from drift(results.drifts)
    yield from timeline(results)
    yield from vitals(results.vitals)


def _lengths(measured: Mapping[str, Sequence[LengthPoint]]) -> Iterator[Panel]:
    if not measured:
        return
    plots: list[Chart] = []
    rows, laws = [], []
    for name, readings in measured.items():
        whole = _fitting(readings)
        plots += [_over_length(name, readings, whole)] if len(plots) < _MOST_CHARTS else []
        laws += [f"{name}: TTFT = {whole.linear_s:.3g} s x N + {whole.quadratic_s:.3g} s x N²."] if whole else []
        rows += [(name, *_reading(each, whole.seconds(each.tokens) if whole else None)) for each in readings]
    columns = (
        "deployment",
        "prompt tokens",
        "requests",
        "TTFT",
        "law",
        "least at peak",
        "documented",
        "prefill",
        "decode",
    )
    note = (
        "Cold requests only; medians where a length was repeated, with least and most. A law is drawn where it is within "
        f"{LAW_WITHIN:.0%} of {LAW_LENGTHS} lengths or more. {' '.join(laws)}"
    )
    yield Panel("Time and rates over length", note.strip(), tuple(plots), Table(columns, rows), "lengths")


def _fitting(readings: Sequence[LengthPoint]) -> Law | None:
    """
    Return the law to plot through *readings*; ``None`` if there are too few readings, or if the law describes them
    badly.
    """
    whole = analysis.law(readings) if _lengths_apart(readings) >= LAW_LENGTHS else None
    if whole is None or whole.linear_s + 2 * whole.quadratic_s * readings[-1].tokens < 0:
        return None  # a longer prompt would be faster
    return whole if all(abs(whole.seconds(one.tokens) / one.ttft_s - 1) <= LAW_WITHIN for one in readings) else None


def _lengths_apart(readings: Sequence[LengthPoint]) -> int:
    """
    Return the number of plotted lengths that are at least `LENGTHS_APART` apart, because two close lengths determine no
    more than one.
    """
    count, last = 0, 0.0
    for each in readings:
        if each.tokens >= last * LENGTHS_APART:
            count, last = count + 1, each.tokens
    return count


def _over_length(name: str, readings: Sequence[LengthPoint], whole: Law | None) -> Chart:
    longest, shortest = readings[-1].tokens, readings[0].tokens
    along = [shortest * (longest / shortest) ** (i / 40) for i in range(41)]
    fitted = tuple((tokens, seconds) for tokens in along if whole and (seconds := whole.seconds(round(tokens))) > 0)
    spread = tuple((each.tokens, each.least_s, each.most_s) for each in readings if each.runs > 1)
    times = (
        Series("TTFT, measured", tuple((each.tokens, each.ttft_s) for each in readings), spread=spread),
        Series("law fitted to it", fitted, line=True),
        Series(
            "least at hardware peak",
            tuple((each.tokens, each.floor_s) for each in readings if each.floor_s),
            line=True,
        ),
        Series("TTFT, documented", tuple((each.tokens, each.documented_s) for each in readings if each.documented_s)),
    )
    rates = tuple(
        Series(label, tuple((each.tokens, rate) for each in readings if (rate := getattr(each, key))))
        for label, key in (("prefill rate", "prefill_tokens_per_s"), ("decode rate", "decode_tokens_per_s"))
    )
    parts = [Part(Axis("time to first token, s", log=True), times)]
    if any(each.points for each in rates):
        parts.append(Part(Axis("tokens/s", log=True), rates))
    return Chart(f"lengths-{name or 'server'}", f"Time and rates over prompt length, {name}", _TOKENS, tuple(parts))


def _reading(each: LengthPoint, law_s: float | None) -> tuple[str, ...]:
    times = (each.ttft_s, law_s, each.floor_s, each.documented_s)
    rates = (each.prefill_tokens_per_s, each.decode_tokens_per_s)
    return (
        f"{each.tokens:,}",
        str(each.runs),
        *("" if time is None else f"{time:.3g} s" for time in times),
        *("" if rate is None else f"{rate:,.3g}/s" if rate < 100 else f"{rate:,.0f}/s" for rate in rates),
    )


LOGGED_TERMS = {"weights": "weights_gib", "KV pool": "kv_available_gib", "KV cache of one request": "kv_needed_gib"}
"""The figure of a log that a predicted term is compared with."""
_PART_OF_POOL = "KV cache of one request"
"""The term that is not stacked, because it is a part of the pool."""
_FAILED = "allocation that failed"


def _memory(boots: Sequence[dict[str, Any]]) -> Iterator[Panel]:
    kinds: list[str] = []
    bars: list[tuple[float, Bar]] = []
    rows: list[tuple[str, ...]] = []
    for boot in boots:
        name, seen = boot.get("deployment", ""), boot.get("figures", {})
        terms = (boot.get("predicted") or {}).get("terms", ())
        logged = [(term, seen[key]) for term, key in LOGGED_TERMS.items() if key in seen]
        logged += [(_FAILED, seen["allocation_gib"])] if "allocation_gib" in seen else []
        predicted = [(term["name"], term["size_bytes"] / GiB) for term in terms if not term["host"]]
        host = [(f"{term['name']}, host", term["size_bytes"] / GiB) for term in terms if term["host"]]
        for source, parts in (("predicted", predicted), ("logged", logged), ("predicted", host)):
            rows += [(name, term, source, f"{size:.2f} GiB") for term, size in parts]
        bars += _pair(name, predicted, logged, kinds)
    if rows:
        drawn = tuple(bar for _, bar in sorted(bars, key=lambda pair: -pair[0])[:_MOST_BOOTS])
        axis = Axis("GiB of one device; upper bar predicted, lower bar logged")
        plot = Bars("memory", "Memory, predicted beside logged", axis, drawn, tuple(kinds))
        note = "The KV cache of one request is a part of the pool, so only the table has it."
        if len(bars) > len(drawn):
            note = f"{len(drawn)} of {len(bars)} boots, those whose prediction is furthest off. {note}"
        columns = ("deployment", "term", "from", "size")
        yield Panel("Memory", note, (plot,) if drawn else (), Table(columns, rows), "memory")


def _pair(
    name: str, predicted: Sequence[tuple[str, float]], logged: Sequence[tuple[str, float]], kinds: list[str]
) -> Iterator[tuple[float, Bar]]:
    """
    Yield the two stacked bars of one boot in the memory plot, and their largest difference at a common term, as a
    share.
    """
    upper, lower = (
        [part for part in parts if part[0] != _PART_OF_POOL and part[1] > 0] for parts in (predicted, logged)
    )
    if not upper and not lower:
        return
    sizes = [
        f"{word} {sum(size for _, size in parts):.2f}"
        for word, parts in (("predicted", upper), ("logged", lower))
        if parts
    ]
    both = [(size, dict(lower)[term]) for term, size in upper if term in dict(lower)]
    apart = max((abs(size / seen - 1) for size, seen in both), default=0.0)
    bar = Bar(name, tuple(_stacked(upper, kinds)), f"{', '.join(sizes)} GiB", tuple(_stacked(lower, kinds)))
    yield apart, bar


def _stacked(parts: Sequence[tuple[str, float]], kinds: list[str]) -> Iterator[Segment]:
    start = 0.0
    for term, size in parts:
        if term not in kinds:
            kinds.append(term)
        yield Segment(start, size, kinds.index(term))
        start += size
