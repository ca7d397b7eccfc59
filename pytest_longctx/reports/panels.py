"""What a results file has to show beside its verdicts: panels, each only where the rows it needs are there."""

from collections.abc import Iterator, Sequence
from typing import Any

from pytest_longctx.reports import analysis, time_series
from pytest_longctx.reports.analysis import Reading
from pytest_longctx.reports.plots import Axis, Bar, Bars, Chart, Panel, Segment, Series, Table
from pytest_longctx.reports.results import Results
from pytest_longctx.units import GiB

_TOKENS = Axis("prompt tokens", log=True)


def panels(results: Results) -> Iterator[Panel]:
    """Every panel that *results* can fill, in reading order."""
    for name, readings in analysis.cold(results).items():
        if len(readings) > 1:
            yield _lengths(name, readings)
    yield from _capacity(results.boots)
    yield from _memory(results.boots)
    yield from time_series.timeline(results)
    yield from time_series.vitals(results.vitals)
    yield from time_series.retrieval(results.retrievals)


def _lengths(name: str, readings: Sequence[Reading]) -> Panel:
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
        Series(said, tuple((each.tokens, rate) for each in readings if (rate := getattr(each, key))))
        for said, key in (("prefill", "prefill_tokens_per_s"), ("decode", "decode_tokens_per_s"))
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


def _reading(each: Reading, law_s: float | None) -> tuple[str, ...]:
    times = (each.ttft_s, law_s, each.floor_s, each.documented_s)
    rates = (each.prefill_tokens_per_s, each.decode_tokens_per_s)
    return (
        f"{each.tokens:,}",
        str(each.runs),
        *("" if time is None else f"{time:.3g} s" for time in times),
        *("" if rate is None else f"{rate:,.3g}/s" if rate < 100 else f"{rate:,.0f}/s" for rate in rates),
    )


def logged_concurrency(seen: dict[str, float]) -> float | None:
    """Requests of the full context that fit: as logged, else what was left over what a refusal said is needed."""
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
        for i, (said, value) in enumerate(zip(("predicted", "logged"), pair, strict=True)):
            if value is not None:
                bars.append(Bar(f"{name}, {said}", (Segment(0, value, i),), _times(value)))
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
            "How many requests of the full context fit at once; below 1 not even one does.",
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
        logged = [(said, seen[key], 1) for key, said in _LOGGED_TERMS.items() if key in seen]
        order = [term for term, *_ in (*predicted, *logged)]
        for term, size_gib, kind in sorted((*predicted, *logged), key=lambda each: order.index(each[0])):
            bars.append(Bar(f"{name}: {term}", (Segment(0, size_gib, kind),), f"{size_gib:.2f} GiB"))
            rows.append((name, term, ("predicted", "logged")[kind], f"{size_gib:.2f} GiB"))
    if rows:
        plot = Bars("memory", "Memory of one device by term", Axis("GiB"), tuple(bars), ("predicted", "logged"))
        yield Panel(
            "Memory by term",
            "Of one device, or of the host where it says so.",
            (plot,),
            Table(("deployment", "term", "from", "size"), rows),
        )
