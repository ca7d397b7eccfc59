"""
Panels of a report: the plots and tables beside the verdicts.

A panel is shown only if the results file has the rows it needs. The panels cover boots and requests over time, gauges of
servers and devices, retrieval by position, rates over length, and memory.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pytest_longctx.reports import analysis
from pytest_longctx.reports.analysis import LengthPoint
from pytest_longctx.reports.plots import Axis, Bar, Bars, Chart, Grid, Panel, Segment, Series, Table, short
from pytest_longctx.reports.results import Results
from pytest_longctx.units import GiB, duration

_MOST_POINTS = 400
_MOST_DEPTHS = 21
"""Number of rows in a retrieval map: one for each 5 % of the prompt."""


def timeline(results: Results) -> Iterator[Panel]:
    """Plot boots and requests over time, and return the idle time."""
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
        bars.append(Bar(name, tuple(Segment(start - zero, stop - start, kind) for _, start, stop, kind in its)))
        boot_s = sum(stop - start for _, start, stop, kind in its if kind == 0)
        busy_s = _covered([span[1:3] for span in its if span[3]])
        requests = sum(kind for *_, kind in its)
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
    yield Panel("Timeline", note, (plot,), Table(("deployment", "from", "booting", "requests", "answering"), rows))


def _covered(spans: Sequence[tuple[float, float]]) -> float:
    """Return the time covered by at least one of *spans*, which are sorted by start."""
    total, reached = 0.0, float("-inf")
    for start, stop in spans:
        total += max(0.0, stop - max(start, reached))
        reached = max(reached, stop)
    return total


Points = list[tuple[float, float]]


def vitals(rows: Sequence[dict[str, Any]]) -> Iterator[Panel]:
    """Plot the gauges over time, with the logged notices."""
    gauges: dict[tuple[str, str], dict[int | None, Points]] = {}
    for one in rows:
        for name, value in one["figures"].items():
            for device, each in enumerate(value) if isinstance(value, list) else [(None, value)]:
                if each is not None:
                    its = gauges.setdefault((one.get("deployment", ""), name), {})
                    its.setdefault(device, []).append((one["at_s"], each))
    notices = list(dict.fromkeys(one["said"] for one in rows if "said" in one))
    if not gauges and not notices:
        return
    zero = min(one["at_s"] for one in rows)
    plots = tuple(
        Chart(
            f"vitals-{name}-{key}",
            f"{key} over time, {name}",
            Axis("seconds"),
            Axis(key),
            tuple(_extremes(key, its, zero)),
        )
        for (name, key), its in gauges.items()
    )
    table = [
        (name, key, "" if device is None else str(device), str(len(points)), *_summary([value for _, value in points]))
        for (name, key), its in gauges.items()
        for device, points in sorted(its.items(), key=lambda pair: pair[0] or 0)
    ]
    yield Panel(
        "Vitals",
        " ".join(["Gauges that the server and the machine reported meanwhile.", *(f"{line}." for line in notices)]),
        plots,
        Table(("deployment", "figure", "device", "readings", "least", "most", "last"), table),
    )


def _summary(values: Sequence[float]) -> tuple[str, ...]:
    return tuple(f"{value:.4g}" for value in (min(values), max(values), values[-1]))


def _extremes(key: str, its: dict[int | None, Points], zero: float) -> Iterator[Series]:
    """Return the gauge. For several devices, return the highest and the lowest series."""
    if len(its) == 1:
        (points,) = its.values()
        yield Series(key, _thinned(points, zero, max), line=True)
        return
    for label, pick in (("highest device", max), ("lowest device", min)):
        at: dict[float, float] = {}
        for at_s, value in (point for points in its.values() for point in points):
            at[at_s] = pick(at.get(at_s, value), value)
        yield Series(label, _thinned(sorted(at.items()), zero, pick), line=True)


def _thinned(points: Points, zero: float, pick: Callable[..., Any]) -> tuple[tuple[float, float], ...]:
    """Thin the points to the resolution of the plot. Each stretch keeps its most extreme value, so peaks stay visible."""
    step = -(-len(points) // _MOST_POINTS)
    stretches = (points[i : i + step] for i in range(0, len(points), step))
    return tuple((at - zero, value) for at, value in (pick(some, key=lambda point: point[1]) for some in stretches))


def retrieval(rows: Sequence[dict[str, Any]]) -> Iterator[Panel]:
    """Plot at which positions of the prompt the hidden facts were found."""
    cells: dict[str, dict[tuple[float, int], list[float]]] = {}
    # Needles at block borders have a different depth in every prompt; a map with hundreds of rows is unreadable.
    fine = len({round(one["depth"], 2) for one in rows}) <= _MOST_DEPTHS
    for one in rows:
        depth = round(one["depth"], 2) if fine else round(one["depth"] * (_MOST_DEPTHS - 1)) / (_MOST_DEPTHS - 1)
        its = cells.setdefault(one.get("deployment", ""), {})
        its.setdefault((depth, one["prompt_tokens"]), []).append(one["score"])
    for name, its in cells.items():
        depths, lengths = (sorted(set(some)) for some in zip(*its, strict=True))
        shares = [[_mean(its.get((depth, length), [])) for length in lengths] for depth in depths]
        columns, lines = tuple(map(short, lengths)), tuple(f"{100 * depth:.0f}%" for depth in depths)
        grid = Grid(
            f"retrieval-{name}",
            f"Found, in percent, by depth and length, {name}",
            Axis("prompt tokens"),
            Axis("depth"),
            columns,
            lines,
            tuple(map(tuple, shares)),
        )
        table = [
            (line, *("" if share is None else f"{100 * share:.0f}%" for share in some))
            for line, some in zip(lines, shares, strict=True)
        ]
        yield Panel(
            f"Retrieval: {name}",
            f"{sum(map(len, its.values()))} questions.",
            (grid,),
            Table(("depth", *columns), table),
        )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


_TOKENS = Axis("prompt tokens", log=True)


def panels(results: Results) -> Iterator[Panel]:
    """Return every panel that *results* has data for, in reading order."""
    for name, readings in analysis.cold(results).items():
        if len(readings) > 1:
            yield _lengths(name, readings)
    yield from _capacity(results.boots)
    yield from _memory(results.boots)
    yield from timeline(results)
    yield from vitals(results.vitals)
    yield from retrieval(results.retrievals)


def _lengths(name: str, readings: Sequence[LengthPoint]) -> Panel:
    whole = analysis.law(readings)
    longest, shortest = readings[-1].tokens, readings[0].tokens
    along = [shortest * (longest / shortest) ** (i / 40) for i in range(41)]
    fitted = tuple((tokens, seconds) for tokens in along if whole and (seconds := whole.seconds(round(tokens))) > 0)
    times = (
        Series("measured", tuple((each.tokens, each.ttft_s) for each in readings)),
        Series("fitted law", fitted, line=True),
        Series("roofline", tuple((each.tokens, each.floor_s) for each in readings if each.floor_s), line=True),
        Series("documented", tuple((each.tokens, each.documented_s) for each in readings if each.documented_s)),
    )
    rates = tuple(
        Series(label, tuple((each.tokens, rate) for each in readings if (rate := getattr(each, key))))
        for label, key in (("prefill", "prefill_tokens_per_s"), ("decode", "decode_tokens_per_s"))
    )
    slug = name or "server"
    plots = (
        Chart(
            f"ttft-{slug}",
            f"Time to first token over prompt length, {name}",
            _TOKENS,
            Axis("seconds", log=True),
            _kept(times),
        ),
        Chart(
            f"rates-{slug}",
            f"Tokens per second over prompt length, {name}",
            _TOKENS,
            Axis("tokens/s", log=True),
            _kept(rates),
        ),
    )
    columns = ("prompt tokens", "requests", "TTFT", "law", "roofline", "documented", "prefill", "decode")
    rows = [_reading(each, whole.seconds(each.tokens) if whole else None) for each in readings]
    law = f"TTFT = {whole.linear_s:.3g} s x N + {whole.quadratic_s:.3g} s x N²" if whole else ""
    return Panel(
        f"Time and rates over length: {name}",
        f"Cold requests only; medians where a length was repeated. {law}",
        plots,
        Table(columns, rows),
    )


def _kept(series: Sequence[Series]) -> tuple[Series, ...]:
    return tuple(each for each in series if each.points)


def _reading(each: LengthPoint, law_s: float | None) -> tuple[str, ...]:
    times = (each.ttft_s, law_s, each.floor_s, each.documented_s)
    rates = (each.prefill_tokens_per_s, each.decode_tokens_per_s)
    return (
        f"{each.tokens:,}",
        str(each.runs),
        *("" if time is None else f"{time:.3g} s" for time in times),
        *("" if rate is None else f"{rate:,.3g}/s" if rate < 100 else f"{rate:,.0f}/s" for rate in rates),
    )


def logged_concurrency(seen: dict[str, float]) -> float | None:
    """Return the number of full-context requests that fit: as logged, else from the free memory and the refusal."""
    if "concurrency" in seen or not seen.get("kv_needed_gib"):
        return seen.get("concurrency")
    return seen["kv_available_gib"] / seen["kv_needed_gib"] if "kv_available_gib" in seen else None


def _capacity(boots: Sequence[dict[str, Any]]) -> Iterator[Panel]:
    bars: list[Bar] = []
    rows: list[tuple[str, ...]] = []
    for boot in boots:
        seen, expected = boot.get("figures", {}), boot.get("predicted") or {}
        pair = (expected.get("concurrency"), logged_concurrency(seen))
        held = (expected.get("longest_tokens"), seen.get("kv_cache_tokens") or seen.get("longest_fitting_tokens"))
        if pair[1] is None and held[1] is None:
            continue
        name = boot.get("deployment", "")
        stray = f"{100 * (pair[0] / pair[1] - 1):+.2g}%" if pair[0] and pair[1] else ""
        rows.append((name, _count(seen.get("max_model_len")), *map(_times, pair), stray, *map(_count, held)))
        for i, (label, value) in enumerate(zip(("predicted", "logged"), pair, strict=True)):
            if value is not None:
                bars.append(Bar(f"{name}, {label}", (Segment(0, value, i),), _times(value)))
    columns = (
        "deployment",
        "context",
        "predicted",
        "logged",
        "off by",
        "longest request predicted, tokens",
        "KV cache logged, tokens",
    )
    if rows:
        plot = Bars(
            "capacity",
            "Requests of the full context that the KV cache holds at once",
            Axis("requests"),
            tuple(bars),
            ("predicted", "logged"),
        )
        yield Panel(
            "KV-cache capacity",
            "Number of full-context requests that fit at once. Below 1, none fits.",
            (plot,) if bars else (),
            Table(columns, rows),
        )


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}x"


def _count(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


_LOGGED_TERMS = {
    "weights_gib": "weights",
    "kv_available_gib": "KV pool",
    "kv_needed_gib": "KV cache of one request",
    "allocation_gib": "allocation that failed",
    "device_gib": "device",
}


def _memory(boots: Sequence[dict[str, Any]]) -> Iterator[Panel]:
    bars: list[Bar] = []
    rows: list[tuple[str, ...]] = []
    for boot in boots:
        name, seen = boot.get("deployment", ""), boot.get("figures", {})
        terms = (boot.get("predicted") or {}).get("terms", ())
        predicted = [
            (f"{term['name']}{', host' if term['host'] else ''}", term["size_bytes"] / GiB, 0) for term in terms
        ]
        logged = [(label, seen[key], 1) for key, label in _LOGGED_TERMS.items() if key in seen]
        order = [term for term, *_ in (*predicted, *logged)]
        for term, size_gib, kind in sorted((*predicted, *logged), key=lambda each: order.index(each[0])):
            bars.append(Bar(f"{name}: {term}", (Segment(0, size_gib, kind),), f"{size_gib:.2f} GiB"))
            rows.append((name, term, ("predicted", "logged")[kind], f"{size_gib:.2f} GiB"))
    if rows:
        plot = Bars("memory", "Memory of one device by term", Axis("GiB"), tuple(bars), ("predicted", "logged"))
        yield Panel(
            "Memory by term",
            "Memory of one device, or of the host where marked.",
            (plot,),
            Table(("deployment", "term", "from", "size"), rows),
        )
