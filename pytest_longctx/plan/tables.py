"""Tables of an answer: the largest values that fit, and the differences of two versions or engines."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pytest_longctx.backends import versions
from pytest_longctx.deployments.deployment import FlagValue
from pytest_longctx.deployments.hardware import Hardware
from pytest_longctx.errors import UsageError
from pytest_longctx.plan.boots import Boot, foresee
from pytest_longctx.plan.place import Place
from pytest_longctx.plan.planned_server import NEWEST, Asked, Given, of_deployment, of_start
from pytest_longctx.units import GiB

_DTYPES: Mapping[str, tuple[str, ...]] = {"vllm": ("auto", "fp8"), "sglang": ("auto", "fp8_e4m3")}
"""Types of a KV cache whose bytes the predictors know, the widest first."""
_COUNTS = (1, 2, 4, 8, 16, 32, 64)
_STEP = 16


@dataclass(frozen=True, slots=True)
class Solved:
    """The largest context, the most requests and the fewest devices that fit, for one dtype of the KV cache."""

    dtype: str
    longest_tokens: int | None
    """Longest context in tokens with which the server starts; None if no context serves, or if unknown."""
    requests: float | None
    """Concurrent requests of the planned length; None if no request fits."""
    devices: int | None
    """Fewest devices on which the planned length fits; None if 64 are not enough."""

    def as_json(self) -> dict[str, Any]:
        """Return one row of the table of what fits at most, as JSON."""
        return {name: getattr(self, name) for name in ("dtype", "longest_tokens", "requests", "devices")}


def solve(asked: Asked, place: Place) -> list[Solved]:
    """
    Return the table of what fits: longest context, most requests and fewest devices for every dtype of the KV cache.

    The other flags are unchanged.
    """
    return [_solved(dtype, _with_dtype(asked, dtype), place) for dtype in _DTYPES[asked.engine]]


def _with_dtype(asked: Asked, dtype: str) -> Asked:
    return replace(asked.of(kv_cache_dtype=None if dtype == "auto" else dtype), problems=())


def _solved(dtype: str, asked: Asked, place: Place) -> Solved:
    boot = foresee(asked, place)
    requests = boot.requests if boot.serves else None
    return Solved(dtype, _longest(asked, place, boot), requests, _fewest(asked, place, boot))


def _longest(asked: Asked, place: Place, boot: Boot) -> int | None:
    """
    Return the longest context that serves, rounded to 16 tokens, within the engine's limit for this model; None if none
    does.
    """
    low, high = 0, max(boot.longest or 0, boot.length or 0) // _STEP + 1
    while low < high:
        middle = (low + high + 1) // 2
        after = foresee(asked.of(**{asked.length_flag: middle * _STEP}), place)
        low, high = (middle, high) if after.serves else (low, middle - 1)
    return low * _STEP or None


def _fewest(asked: Asked, place: Place, boot: Boot) -> int | None:
    flag = "tensor-parallel-size" if asked.engine == "vllm" else "tp-size"
    others = max(1, boot.spread.devices // boot.spread.tensor)
    for count in _COUNTS:
        if count % others:
            continue
        there = replace(place, hardware=Hardware(place.hardware.kind, count))
        length = {} if asked.length in (None, -1) else {asked.length_flag: asked.length}
        if foresee(asked.of(**{flag: count // others, **length}), there).serves:
            return count
    return None


def solved_lines(rows: Sequence[Solved], boot: Boot) -> Iterator[str]:
    """Yield the table of what fits at most as lines of text. An unknown figure is a dash."""
    length = f"requests of {boot.length:,}" if boot.length else "requests"
    yield f"  {'KV dtype':<12} {'longest context':>16} {length:>22} {'fewest devices':>15}"
    for row in rows:
        longest = f"{row.longest_tokens:,}" if row.longest_tokens else "-"
        requests = f"{row.requests:.2f}" if row.requests else "-"
        yield f"  {row.dtype:<12} {longest:>16} {requests:>22} {row.devices or '-':>15}"
    widest = next((row.dtype for row in rows if row.requests), None)
    yield f"  KV dtype needed for this length: {widest or 'none of these is enough'}"


_ALIKE: Mapping[str, str] = {
    "tensor-parallel-size": "tp-size",
    "pipeline-parallel-size": "pp-size",
    "data-parallel-size": "dp-size",
    "max-model-len": "context-length",
    "max-num-seqs": "max-running-requests",
    "max-num-batched-tokens": "chunked-prefill-size",
    "kv-cache-dtype": "kv-cache-dtype",
    "enforce-eager": "disable-cuda-graph",
    "quantization": "quantization",
    "cpu-offload-gb": "cpu-offload-gb",
    "trust-remote-code": "trust-remote-code",
}
"""
Flags of vLLM and flags of SGLang with one meaning. Shares of memory differ, because they are shares of different
totals.
"""
_DTYPES_ALIKE = {"fp8": "fp8_e4m3", "bfloat16": "bf16"}


def other(asked: Asked, wanted: str, given: Given) -> Asked:
    """
    Return *asked* with another version or engine: ``0.27.1``, ``vllm==0.27.1``, ``sglang``. Raises `UsageError`.

    Flags of one engine are converted to flags of the other engine if both have them. A note names the flags that are omitted.
    """
    engine, _, version = wanted.partition("==")
    if engine[:1].isdecimal():
        engine, version = asked.engine, wanted
    if engine not in _DTYPES:
        raise UsageError(f"--compare {wanted}: write a version, vllm, sglang, or vllm==VERSION")
    if engine == asked.engine:
        if not version:
            raise UsageError(
                f"--compare {wanted}: the command already plans for this engine; name a version, as in {engine}==0.27.1"
            )
        changed = replace(given, version=version)
        if asked.deployment is not None:
            return of_deployment(asked.deployment, changed, asked.folder)
        return of_start(asked.start, changed) if asked.start is not None else asked
    return _translated(asked, engine, version)


def _translated(asked: Asked, engine: str, version: str) -> Asked:
    table = _ALIKE if engine == "sglang" else {theirs: ours for ours, theirs in _ALIKE.items()}
    dtypes = _DTYPES_ALIKE if engine == "sglang" else {theirs: ours for ours, theirs in _DTYPES_ALIKE.items()}
    flags: dict[str, FlagValue] = {}
    left = []
    for name, value in asked.flags.items():
        if name not in table:
            left.append(name)
        elif value != -1:
            flags[table[name]] = dtypes.get(str(value), value) if name == "kv-cache-dtype" else value
    every = versions.recorded(engine)
    row = next((each for each in every if each.version == version), every[-1])
    note = f"compared without {', '.join(f'--{name}' for name in left)}" if left else ""
    return replace(
        asked,
        engine=engine,
        version=version or row.version,
        said="as asked" if version else NEWEST,
        row=row,
        flags=flags,
        problems=(),
        deployment=None,
        notes=(note,) if note else (),
    )


def compared_lines(one: Boot, two: Boot) -> Iterator[str]:
    """Yield the table that compares two planned servers side by side."""
    rows = [
        ("", *(f"{boot.asked.engine} {boot.asked.version}" for boot in (one, two))),
        ("outcome", *(_outcome(boot) for boot in (one, two))),
        ("requests at once", *(f"{boot.requests:.2f}" if boot.requests else "-" for boot in (one, two))),
        ("longest request", *(f"{boot.longest:,}" if boot.longest else "-" for boot in (one, two))),
        *(_term(name, one, two) for name in ("weights", "other", "KV pool")),
    ]
    yield from (f"  {name:<18} {first:>24} {second:>24}" for name, first, second in rows)
    yield from (f"  note: {note}" for note in two.asked.notes)


def _outcome(boot: Boot) -> str:
    if boot.refusals:
        return "refuses"
    found = boot.prediction
    return "not planned" if found is None else "fits" if boot.holds else found.outcome


def _term(name: str, *both: Boot) -> tuple[str, str, str]:
    sizes = []
    for boot in both:
        terms = boot.prediction.terms if boot.prediction else ()
        size = next((term.size_bytes for term in terms if term.name == name), None)
        sizes.append("-" if size is None else f"{size / GiB:.2f} GiB")
    return name, sizes[0], sizes[1]


def compared_json(boot: Boot) -> dict[str, Any]:
    """Return one side of a comparison as JSON."""
    return {
        "engine": boot.asked.engine,
        "version": boot.asked.version,
        "outcome": _outcome(boot),
        "requests": boot.requests,
        "longest_tokens": boot.longest,
        "flags": dict(boot.asked.flags),
        "notes": list(boot.asked.notes),
    }
