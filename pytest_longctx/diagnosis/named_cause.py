"""What follows from a line that names the cause: the phase of the failure, its sizes, and the remedy for the engine's version."""

from collections.abc import Mapping
from typing import Final

from pytest_longctx.diagnosis.boot_state import Failure
from pytest_longctx.diagnosis.log_reader import LogReader
from pytest_longctx.diagnosis.signatures import Phase
from pytest_longctx.toml import in_range

_WHILE_STARTING: Final = ("environment", "engine-missing")
"""Classes of an import, which comes before the first fact of a boot."""
_NEAR_LINES: Final = 5
"""How far from the line that names the cause the allocator's own line may be."""


def phase_of(reading: LogReader, found: Failure) -> Phase:
    """
    The phase of the diagnosed failure: a server that serves works on a request; a log without boot facts may
    begin late.
    """
    placed = found.signature.phase is not None or found.place is not None or found.kind in _WHILE_STARTING
    return when(found.phase, told=placed or reading.boot.told)


def when(reached: Phase, *, told: bool) -> Phase:
    """
    The phase of a diagnosed failure for the phase that the boot *reached*; *told*: something in the log speaks
    for it, beside the lack of anything later.
    """
    if reached == "start" and not told:
        return "unknown"
    return "request" if reached == "serve" else reached


def allocation_before(candidates: list[Failure], found: Failure) -> Mapping[str, float]:
    """
    The sizes of the GPU allocation that failed in the diagnosed line *found*, from the allocator's line just
    before it.
    """
    before = [each for each in candidates if each.signature.weak and 0 <= found.order - each.order <= _NEAR_LINES]
    memory = found.kind.startswith("gpu-oom") or found.kind == "kv-cache-too-small"
    return next((each.metrics for each in reversed(before) if memory and each.kind.startswith("gpu-oom")), {})


def remedy_for(reading: LogReader, found: Failure) -> str:
    """The diagnosis's remedy for the version that logged the failure, and after the notices in its log."""
    known = found.signature
    if known.after and known.after_remedy and reading.notices[known.after]:
        return known.after_remedy
    version = reading.words.get("engine_version", reading.version)
    choices = found.place.remedies if found.place and found.place.remedy else found.signature.remedies
    for wanted, remedy in choices.items():
        if version is not None and in_range(version, wanted):
            return remedy
    return found.remedy
