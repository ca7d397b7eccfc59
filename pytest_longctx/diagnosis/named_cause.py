"""
Consequences of a line that names a cause or an end: the phase, the sizes, the signal, and the remedy for the engine's
version.
"""

import re
import signal
from collections.abc import Mapping, Sequence
from typing import Final

from pytest_longctx.diagnosis.boot_state import Failure
from pytest_longctx.diagnosis.log_evidence import ProcessEnd, signal_of_banner
from pytest_longctx.diagnosis.log_reader import LogReader
from pytest_longctx.diagnosis.signatures import Catalogue, Phase, Signature
from pytest_longctx.diagnosis.tracebacks import EXCEPTION
from pytest_longctx.toml import in_range

_WHILE_STARTING: Final = ("environment", "engine-missing")
"""Classes of an import, which comes before the first fact of a boot."""
_NEAR_LINES: Final = 5
"""Largest distance in lines between the line that names the cause and the line of the allocator."""
_WEAK: Final = "the line is of a kind that may follow from something else; no other line names a cause"
_GENERIC: Final = "only the part of the program that raised the exception is known; its words are not known to any rule"
OF_REQUESTS: Final = "the exception is that of the first request that failed; the engine caught it and goes on"
_SEVERAL: Final = 4
WITH_ROOM: Final = (
    "the driver and the runtime of this device rather than its memory: one visible device, a driver of the release that belongs "
    "to the runtime, the image of another release; then the limits of the process (ulimit -l, the container's devices)"
)
"""Remedy for an allocation that the device refused although it had enough free memory."""


def of_request(catalogue: Catalogue, error: str | None) -> Signature | None:
    """
    Return the signature of *error*, an exception that ended a request and that the engine caught.

    None if no signature matches these words alone.

    >>> from pytest_longctx.diagnosis.signatures import common
    >>> of_request(common(), "ValueError: Tokenizer class X does not exist or is not currently imported.").id
    'tokenizer-class-unknown'
    """
    if error is None or EXCEPTION.match(error) is None:
        return None
    alone = (
        each for each in catalogue.signature if not (each.summary or each.placed or each.raised_in or each.booting)
    )
    said = (each for each in alone if not each.role or "exception" in each.role)
    return next((each for each in said if re.search(each.regex, error)), None)


def line_of(reading: LogReader, found: Failure) -> str:
    """Return the line that names the cause, with the exception that it announces if the engine survived that exception."""
    announced = reading.errors.caught if found.signature.heading and found.signature.survivable else None
    return f"{found.line} {announced}" if announced else found.line


def phase_of(reading: LogReader, found: Failure) -> Phase:
    """
    Return the phase of the failure that the line *found* names.

    After the boot, the server works on a request. A log without facts of a boot may begin late; then the phase is unknown.
    """
    placed = found.signature.phase is not None or found.place is not None or found.kind in _WHILE_STARTING
    beside = found.signature.root and not placed  # a line of the kernel, which knows no phase of the server
    return when(reading.boot.reached if beside else found.phase, told=placed or reading.boot.told)


def when(reached: Phase, *, told: bool) -> Phase:
    """Return the phase of a failure, for the phase that the boot *reached*. *told*: a log line shows the phase."""
    if reached == "start" and not told:
        return "unknown"
    return "request" if reached == "serve" else reached


def allocation_before(candidates: list[Failure], found: Failure) -> Mapping[str, float]:
    """Return the sizes of the failed GPU allocation of the line *found*, from the allocator's line just before it."""
    before = [each for each in candidates if each.signature.weak and 0 <= found.order - each.order <= _NEAR_LINES]
    memory = found.kind.startswith("gpu-oom") or found.kind == "kv-cache-too-small"
    return next((each.metrics for each in reversed(before) if memory and each.kind.startswith("gpu-oom")), {})


def doubt_of(found: Failure, *, ended: bool) -> str:
    """
    Return why the diagnosis from the line *found* is uncertain; empty if it is certain. *ended*: the end of the process
    was observed.
    """
    known = found.signature
    if known.weak:
        return _GENERIC if known.raised_in or known.placed else _WEAK
    if known.survivable and not ended:
        return "the engine goes on after it: it is reported, and the process has not been seen to end"
    return ""


def refused_with_room(found: Failure, sizes: Mapping[str, float]) -> str:
    """
    Return the evidence against a lack of memory in the line *found*; empty without such evidence.

    The device had several times the requested memory free, and the log names no limit of the process.
    """
    asked_gib, free_gib = sizes.get("allocation_gib"), sizes.get("device_free_gib")
    if not found.kind.startswith("gpu-oom") or asked_gib is None or free_gib is None or "allowed" in found.line:
        return ""
    if free_gib <= _SEVERAL * asked_gib:
        return ""
    return (
        f"the line says out of memory, and that {free_gib:.2f} GiB were free where {asked_gib:.3g} GiB were asked for"
    )


def remedy_for(reading: LogReader, found: Failure) -> str:
    """Return the remedy for the version that logged the failure, and for the notices in the log."""
    known = found.signature
    if known.after and known.after_remedy and reading.notices[known.after]:
        return known.after_remedy
    version = reading.words.get("engine_version", reading.version)
    choices = found.place.remedies if found.place and found.place.remedy else found.signature.remedies
    for wanted, remedy in choices.items():
        if version is not None and in_range(version, wanted):
            return remedy
    return found.remedy


def silent(reading: LogReader) -> bool:
    """Return whether a child process of the diagnosed server ended before any error was logged."""
    found = reading.summary
    ended = found is not None and (found.kind == "child-died" or found.signature.id == "ended-by-signal")
    return found is not None and ended and found.silent


def signal_of(reading: LogReader, exit_code: int | None, process_ends: Sequence[ProcessEnd]) -> int | None:
    """
    Return the signal that ended the diagnosed server, or its child that ended first: by the log, by *exit_code*, or by
    the observed *process_ends*.

    None after an error of its own: SGLang, for one, then ends itself and all its children by SIGKILL.
    """
    found = reading.summary
    said = ""
    if found is not None:
        said = found.words.get("exit_code", "") or (f"-{found.words['signal']}" if "signal" in found.words else "")
        said = said or (signal_of_banner(found.line) if found.signature.id == "ended-by-signal" else "")
        if (
            found.signature.id != "native-assertion"
            and not silent(reading)
            and (not said or -int(said) in (signal.SIGKILL, signal.SIGTERM))
        ):
            return None
    elif reading.errors.text is not None:
        return None
    for code in (int(said) if said else None, exit_code):
        if code is not None and (code < 0 or 128 < code < 128 + signal.NSIG):
            return -code if code < 0 else code - 128
    # Parents end their own children by SIGTERM and SIGINT, so those tell nothing.
    return next((each.number for each in process_ends if each.number not in (signal.SIGTERM, signal.SIGINT)), None)
