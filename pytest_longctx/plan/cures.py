"""The smallest changes of flags with which a server starts. The prediction checks each change before it is named."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from pytest_longctx.deployments.hardware import Hardware
from pytest_longctx.plan.boots import Boot, foresee
from pytest_longctx.plan.planned_server import Asked, has_flag

Change = Mapping[str, Any]
MOST_CHANGES = 2
"""How many changes against a lack of memory are tried together, after those against refusals."""
_MOST_KEPT = 24
"""How many servers that do not serve yet are changed further."""
SHOWN = 3
"""Number of cures of equal size that are named."""
_DEFAULT_SHARE = 0.92
_SHORTER = (0.95, 0.9, 0.8, 0.7, 0.6, 0.5)
_STEP = 16


@dataclass(frozen=True, slots=True)
class Cure:
    """Changes of flags, and the boot that is predicted with them."""

    changes: tuple[Change, ...]
    boot: Boot
    hardware: str = ""
    """Devices to use instead of the planned devices; empty for the planned devices."""

    def __str__(self) -> str:
        merged = {name: value for change in self.changes for name, value in change.items()}
        words = [_shown(name, value) for name, value in merged.items()]
        return " ".join([*words, *([f"on {self.hardware}"] if self.hardware else [])])

    @property
    def result(self) -> str:
        """The prediction for the server with the changed flags, as text."""
        requests, guess = self.boot.requests, "" if self.boot.sure else " at a guess"
        return f"serves{guess}" if requests is None else f"fits {requests:.2f}x{guess}"


def _shown(name: str, value: Any) -> str:
    if name == _PROBLEMS:
        return f"without {value}"
    if value is None:
        return f"without --{name}"
    return f"--{name}" if value is True else f"--{name} {value}"


_PROBLEMS = "what its parser refuses"


def find(boot: Boot) -> list[Cure]:
    """
    Return the cures of a failing *boot* with the fewest changes, the mildest first; empty if it serves, or if none is
    found.
    """
    if boot.sure or (boot.prediction is None and not boot.refusals):
        return []
    tried: list[tuple[tuple[Change, ...], Boot]] = [((), boot)]
    guessed: list[Cure] = []
    for _ in range(MOST_CHANGES + min(len(boot.refusals), 3)):
        step = [(changes, after) for before in tried for changes, after in _one_more(*before)]
        cured = {_merged(changes): Cure(changes, after) for changes, after in reversed(step) if after.serves}
        found = [*reversed(cured.values())]
        if sure := [each for each in found if each.boot.sure]:
            return sure[:SHOWN]
        guessed = guessed or ([] if boot.serves else found[:SHOWN])
        if not step:
            break
        # Further changes start from those that took a refusal away, or else from every one.
        least = len(tried[0][1].refusals)
        better = [each for each in step if len(each[1].refusals) < least]
        tried = (better or step)[:_MOST_KEPT]
    return guessed or [*_more_devices(boot)][:1]


def _merged(changes: tuple[Change, ...]) -> frozenset[tuple[str, Any]]:
    return frozenset((name, value) for change in changes for name, value in change.items())


def _one_more(changes: tuple[Change, ...], boot: Boot) -> Iterator[tuple[tuple[Change, ...], Boot]]:
    done = {name for change in changes for name in change}
    given = {*boot.asked.flags, _PROBLEMS}
    for candidate in _candidates(boot):
        change = {name: value for name, value in candidate.items() if value is not None or name in given}
        if change and not done & set(change):
            yield (*changes, change), foresee(_changed(boot.asked, change), boot.place)


def _changed(asked: Asked, change: Change) -> Asked:
    if _PROBLEMS in change:
        return replace(asked, problems=())
    return asked.of(**change)


def _candidates(boot: Boot) -> Iterator[Change]:
    """Yield changes of flags to try for *boot*: against its first refusal or, without one, against its lack of memory."""
    asked = boot.asked
    if asked.problems:
        yield {_PROBLEMS: ", ".join(each.word for each in asked.problems)}
        return
    if boot.refusals:
        yield from boot.refusals[0].cures
        return
    if boot.prediction is None:
        return
    weights = boot.prediction.culprit is not None and boot.prediction.culprit.name == "weights"
    flag = "tensor-parallel-size" if asked.engine == "vllm" else "tp-size"
    memory = _wider(boot, flag) if weights else _vllm(boot) if asked.engine == "vllm" else _sglang(boot)
    yield from (change for change in memory if all(has_flag(asked.row, name) for name in change))


def _vllm(boot: Boot) -> Iterator[Change]:
    flags, found = boot.asked.flags, boot.prediction
    share = flags.get("gpu-memory-utilization", _DEFAULT_SHARE)
    for value in (0.9, 0.95):
        if share != value:
            yield {"gpu-memory-utilization": value}
    yield from _fewer(boot, "max-num-seqs")
    if found is not None and found.outcome == "overcommits":
        yield from _taken_away(boot, "disable-hybrid-kv-cache-manager", "kv-transfer-config")
    if flags.get("kv-cache-dtype", "auto") == "auto":
        yield {"kv-cache-dtype": "fp8"}
    if not flags.get("enforce-eager"):
        yield {"enforce-eager": True}
    yield from _wider(boot, "tensor-parallel-size")
    yield from _shorter(boot)
    yield from _taken_away(boot, "kv-offloading-size", "cpu-offload-gb", "swap-space")


def _sglang(boot: Boot) -> Iterator[Change]:
    flags = boot.asked.flags
    yield from _fewer(boot, "max-running-requests")
    decode = "cuda-graph-max-bs-decode"
    graphs = decode if has_flag(boot.asked.row, decode) else "cuda-graph-max-bs"
    if _above(flags.get(graphs), 8):
        yield {graphs: 8}
    if flags.get("page-size", 1) == 1:
        yield {"page-size": 64}
    for value in (0.8, 0.85, 0.9, 0.93, 0.95):
        if flags.get("mem-fraction-static") != value:
            yield {"mem-fraction-static": value}
    if flags.get("kv-cache-dtype", "auto") == "auto":
        yield {"kv-cache-dtype": "fp8_e4m3"}
    yield from _wider(boot, "tp-size")
    yield from _shorter(boot)
    yield from _taken_away(boot, "enable-hierarchical-cache")


def _fewer(boot: Boot, flag: str) -> Iterator[Change]:
    yield from ({flag: requests} for requests in (512, 256, 64, 8) if _above(boot.asked.flags.get(flag), requests))


def _taken_away(boot: Boot, *names: str) -> Iterator[Change]:
    yield from ({name: None} for name in names if boot.asked.flags.get(name))


def _above(value: Any, limit: int) -> bool:
    """Return whether a flag that a cure may lower is above *limit*, or is not set."""
    return not isinstance(value, int) or value > limit


def _wider(boot: Boot, flag: str) -> Iterator[Change]:
    """Yield cures by more tensor parallelism on the existing devices."""
    spread, size = boot.spread, boot.spread.tensor * 2
    others = max(1, spread.devices // spread.tensor)
    while size * others <= boot.place.hardware.count:
        yield {flag: size}
        size *= 2


def _shorter(boot: Boot) -> Iterator[Change]:
    """
    Yield cures by a shorter context: the longest that fits and, if that is in doubt, the longest tried context without
    doubt.
    """
    flag, longest = boot.asked.length_flag, boot.longest or 0
    if not longest or longest >= (boot.length or 0):
        return
    yield {flag: longest}
    if not foresee(boot.asked.of(**{flag: longest}), boot.place).sure:
        shorter = [int(longest * share) // _STEP * _STEP for share in _SHORTER]
        sure = (n for n in shorter if n and foresee(boot.asked.of(**{flag: n}), boot.place).sure)
        yield from ({flag: length} for length in islice(sure, 1))


def _more_devices(boot: Boot) -> Iterator[Cure]:
    """Yield the cure that adds devices of the same kind and increases the tensor parallelism in proportion."""
    flag = "tensor-parallel-size" if boot.asked.engine == "vllm" else "tp-size"
    hardware, others = boot.place.hardware, max(1, boot.spread.devices // boot.spread.tensor)
    for count in (2, 4, 8, 16, 32, 64):
        if count <= hardware.count or count < others:
            continue
        there, wider = Hardware(hardware.kind, count), {flag: count // others}
        after = foresee(boot.asked.of(**wider), replace(boot.place, hardware=there))
        if after.sure:
            yield Cure((wider,), after, str(there))
            return
