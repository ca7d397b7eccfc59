"""
Catalogues of an engine's log lines: facts of a boot, its phases, its failures, and lines that only look like failures.

A catalogue is a TOML file beside its backend. Patterns are searched in the message of each line, without prefixes and terminal
colours; named groups are readings with the names of `pytest_longctx.measures`.
"""

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from pytest_longctx import toml
from pytest_longctx.errors import unknown
from pytest_longctx.measures import MEASURES
from pytest_longctx.observation import Kind, Outcome

TEXT_FACTS = (
    "kv_cache_dtype",
    "attention_backend",
    "engine_version",
    "architecture",
    "device",
    "exit_code",
    "signal",
    "because",
)
"""Readings that are words, not figures; ``because`` is a cause that an engine quotes in its summary line."""

Phase = Literal[
    "start",
    "config",
    "load",
    "compile",
    "profile",
    "kv_cache",
    "warm-up",
    "graphs",
    "first forward",
    "serve",
    "request",
    "stop",
    "unknown",
]

PHASES: Mapping[Phase, str] = MappingProxyType(
    {
        "start": "starting",
        "config": "reading its configuration",
        "load": "loading weights",
        "compile": "compiling",
        "profile": "profiling memory",
        "kv_cache": "allocating the KV cache",
        "warm-up": "warming up",
        "graphs": "capturing graphs",
        "first forward": "running the first forward pass",
        "serve": "serving",
        "request": "working on a request",
        "stop": "stopping",
        "unknown": "not known: the log has no mark of a phase before it",
    }
)
"""Every phase of a server, described for users."""

_SCALES = {"_bytes": 1024**3, "_kib": 1024**2, "_mib": 1024}
"""Units that are converted to GiB, by the suffix of a reading's name."""


def _pattern(text: str) -> str:
    try:
        groups = re.compile(text).groupindex
    except re.error as problem:
        raise ValueError(f"not a regular expression: {problem}") from None
    for name in groups:
        if name not in TEXT_FACTS and _measure(name)[0] not in MEASURES:
            raise ValueError(unknown("group", name, (*MEASURES, *TEXT_FACTS)))
    return text


def _measure(reading: str) -> tuple[str, int]:
    """Return the measure of a signature's group *reading*, and the number of its units in one unit of the measure."""
    for end, scale in _SCALES.items():
        if reading.endswith(end) and reading not in MEASURES:
            return f"{reading.removesuffix(end)}_gib", scale
    return reading, 1


Pattern = Annotated[str, AfterValidator(_pattern)]


class Fact(toml.Table):
    """A line with a fact about a boot that works."""

    regex: Pattern
    phase: Phase | None = None
    """The phase that has begun when this line appears. After ``serve`` only ``stop`` can begin."""
    boot: bool = False
    """Whether the line begins a boot; an earlier boot in the same log is kept separately."""


class Place(toml.Table):
    """A line of a traceback that shows where a failure happened; the innermost counts."""

    regex: Pattern
    of: Kind = "gpu-oom"
    """The class that it refines."""
    phase: Phase
    kind: Annotated[Kind, Field(alias="class")]
    remedy: str | None = None
    """None: the remedy of the signature."""
    remedies: Mapping[str, str] = {}
    """Remedies for version ranges (PEP 440); the first range that contains the version applies."""


Role = Literal["exception", "record", "native"]
Roles = Annotated[tuple[Role, ...], toml.LISTED]


class Signature(toml.Table):
    """A line that gives the cause of a server's failure, or of a refused request."""

    id: str
    kind: Annotated[Kind, Field(alias="class")] = "unknown"
    outcome: Outcome
    phase: Phase | None = None
    """None: the current phase of the boot."""
    regex: Pattern
    then: Pattern | None = None
    """A later line that contains the sizes."""
    sizes: Pattern | None = None
    """Sizes elsewhere in the same line."""
    remedy: str
    source: str
    """Where the line is from: engine source, public report or measured boot."""
    version: toml.VersionRange | None = None
    example: str
    """A line that matches."""
    near_miss: str
    """A similar line that must not match."""
    summary: bool = False
    """The line only reports that something failed; the cause precedes it or is not in the log."""
    survivable: bool = False
    """The engine continues after it, according to its source: it ends no wait, and is reported unless the engine recovers."""
    weak: bool = False
    """It counts as the cause only if no other line names one."""
    wrapper: bool = False
    """The engine's exception around another one: its remedy applies, with the sizes of the inner one."""
    heading: bool = False
    """It announces the message on the next lines of the same traceback. If these lines name a cause, that cause replaces it."""
    level: Literal["INFO", "WARNING", "ERROR"] = "ERROR"
    """The lowest level at which a logger's line counts."""
    role: Roles = ()
    """Required roles of the line: ``exception``, ``record``, ``native``; empty: any."""
    placed: bool = False
    """It counts only in a traceback that has a place of its class."""
    raised_in: Pattern | None = None
    """It counts only in a traceback whose last frame matches: the program that raised the exception."""
    not_raised_in: Pattern | None = None
    """It does not count in a traceback whose last frame matches; a line without a traceback counts."""
    booting: bool = False
    """It counts only before the server serves."""
    root: bool = False
    """Evidence of the kernel or the driver: time-outs and faults that an engine logs beside it follow from it."""
    after: str | None = None
    """The id of a benign line of the same boot that changes the remedy to `after_remedy`."""
    after_remedy: str | None = None
    also: toml.Names = ()
    """More matching lines, one for each wording."""
    remedies: Mapping[str, str] = {}
    """Remedies for version ranges (PEP 440); the first range that contains the version applies."""


class Benign(toml.Table):
    """A line that looks fatal and is harmless: it ends no wait and is never the first error."""

    id: str
    kind: Annotated[Kind | None, Field(alias="class")] = None
    """The class that it suggests if the server never answers."""
    regex: Pattern
    caught: bool = False
    """Whether the engine caught the traceback that follows."""
    undoes: str | None = None
    """The signature that it revokes: the operation succeeded later."""
    stalls: Annotated[int, Field(ge=0)] = 0
    """Number of such lines that are a failure of the class, if no sign of work follows the last; 0: never."""
    remedy: str = ""
    """What to do then."""
    why: str
    example: str
    near_miss: str
    """A similar line that is not harmless."""
    also: toml.Names = ()
    """More matching lines, one for each wording."""


class RateLine(toml.Table):
    """A line with a prompt throughput that is not a measured rate: the tokens read, divided by a time window."""

    regex: Pattern
    window_s: Annotated[float, Field(ge=0)]
    """The length of that window in seconds; 0 if the engine logs a line for each batch."""
    example: str
    near_miss: str


class CanaryLine(toml.Table):
    """A line by which the engine itself reports that its KV cache was corrupted, while it continues to answer."""

    regex: Pattern
    example: str
    near_miss: str


class Catalogue(toml.Table):
    """All known lines of one engine's log."""

    hints: toml.Names = ()
    """Accepted and ignored: the search needs no hints."""
    boot_hints: toml.Names = ()
    """Accepted and ignored, like ``hints``."""
    fact: Annotated[tuple[Fact, ...], toml.LISTED] = ()
    place: Annotated[tuple[Place, ...], toml.LISTED] = ()
    signature: Annotated[tuple[Signature, ...], toml.LISTED] = ()
    refusal: Annotated[tuple[Signature, ...], toml.LISTED] = ()
    """Messages of refused requests. They are no failure of the server and are not searched for in its log."""
    rate: RateLine | None = None
    canary: CanaryLine | None = None
    benign: Annotated[tuple[Benign, ...], toml.LISTED] = ()

    def and_all(self, others: Iterable["Catalogue"]) -> "Catalogue":
        """The log signatures of several catalogues together, for a log of an unrecognised engine."""
        parts = (self, *others)
        return self.model_copy(
            update={
                name: tuple(entry for part in parts for entry in getattr(part, name))
                for name in ("place", "fact", "signature", "refusal", "benign")
            }
        )

    def with_common(self, common: "Catalogue") -> "Catalogue":
        """
        The catalogue's own log signatures, followed by those that apply to every engine: a wording that an engine's
        entry lacks is found in the common one of the same id.
        """
        own = {each.id for each in self.benign}
        return self.model_copy(
            update={
                "place": (*self.place, *common.place),
                "fact": (*self.fact, *common.fact),
                "signature": (*self.signature, *common.signature),
                "benign": (*self.benign, *(each for each in common.benign if each.id not in own)),
            }
        )


def figures(readings: Mapping[str, str | None]) -> dict[str, float]:
    """
    Return the figures among a signature's readings. Text is omitted; bytes, KiB and MiB are converted to GiB.

    >>> figures({"kv_cache_tokens": "5,711,392", "allocation_mib": "512.00", "weights_gib": "1.2.3", "weights_s": None})
    {'kv_cache_tokens': 5711392.0, 'allocation_gib': 0.5}
    """
    found = {}
    for name, text in readings.items():
        measure, scale = _measure(name)
        with suppress(ValueError):
            if measure in MEASURES:
                found[measure] = float((text or "").replace(",", "")) / scale
    return found


def words(readings: Mapping[str, str | None]) -> dict[str, str]:
    """Return the readings of a signature or a fact that are text, such as versions."""
    return {name: text for name, text in readings.items() if name in TEXT_FACTS and text is not None}


@cache
def common() -> Catalogue:
    """The catalogue of lines of every engine's log: Linux, Python, PyTorch, CUDA, ROCm, NCCL, model hub, Kubernetes."""
    return load(Path(__file__).with_name("signatures.toml"))


def engine_files() -> dict[str, Path]:
    """Files of log signatures for engines without a backend in this package, by name."""
    return {path.stem: path for path in (Path(__file__).parent / "engines").glob("*.toml")}


def load(path: Path) -> Catalogue:
    """Read the catalogue of log signatures at *path*. Raises `TableError`."""
    return toml.load(path, Catalogue)
