"""
What is known of an engine's log: facts of a boot, its phases, the failures it can end in, and what only looks like one.

A catalogue is a TOML file beside its backend. Patterns are searched in each line as the engine wrote it, without
terminal colours; named groups are readings, and their names are those of `pytest_longctx.measures`.
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from pytest_longctx import toml
from pytest_longctx.errors import unknown
from pytest_longctx.measures import MEASURES
from pytest_longctx.observation import Kind, Outcome

TEXT_FACTS = ("kv_cache_dtype", "attention_backend", "engine_version", "architecture", "device", "exit_code", "because")
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
    }
)
"""Every phase of a server's life, in words for people."""

_SCALES = {"_bytes": 1024**3, "_kib": 1024**2, "_mib": 1024}
"""Units that become GiB, by the end of a reading's name."""


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
    """The measure that *reading* is one of, and how many of its units make one of the measure's."""
    for end, scale in _SCALES.items():
        if reading.endswith(end) and reading not in MEASURES:
            return f"{reading.removesuffix(end)}_gib", scale
    return reading, 1


Pattern = Annotated[str, AfterValidator(_pattern)]


class Fact(toml.Table):
    """A line that tells something about a good boot."""

    regex: Pattern
    phase: Phase | None = None
    """The phase that has begun when this line appears. After ``serve`` only ``stop`` can begin."""


class Place(toml.Table):
    """A line of a traceback that tells where a failure of class ``gpu-oom`` happened; the innermost counts."""

    regex: Pattern
    phase: Phase
    kind: Annotated[Kind, Field(alias="class")]
    remedy: str | None = None
    """None: the signature's own."""


class Signature(toml.Table):
    """A line that tells why a server failed, or why it turned a request down."""

    id: str
    kind: Annotated[Kind, Field(alias="class")] = "unknown"
    outcome: Outcome
    phase: Phase | None = None
    """None: the phase the boot was in."""
    regex: Pattern
    then: Pattern | None = None
    """A line soon after it that has its sizes."""
    remedy: str
    source: str
    """Where the line was seen."""
    version: toml.VersionRange | None = None
    example: str
    """A line that matches."""
    near_miss: str
    """A line that looks alike and must not match."""
    summary: bool = False
    """The line only says that something failed; the cause stands before it, or is not in the log at all."""


class Benign(toml.Table):
    """A line that looks fatal and is not: it ends no wait and is never the first error."""

    id: str
    kind: Annotated[Kind | None, Field(alias="class")] = None
    """What it points to where the server is never heard of again."""
    regex: Pattern
    why: str
    example: str
    near_miss: str
    """A line that looks alike and is not that harmless."""


class RateLine(toml.Table):
    """A line with a throughput of prompts that is no measurement: what was read, divided by a window."""

    regex: Pattern
    window_s: Annotated[float, Field(ge=0)]
    """How long the engine gathers before it writes one; 0 where it writes one for each batch."""
    example: str
    near_miss: str


class CanaryLine(toml.Table):
    """A line by which the engine itself reports that its KV cache was corrupted, while it continues to answer."""

    regex: Pattern
    example: str
    near_miss: str


class Catalogue(toml.Table):
    """All that is known of one engine's log."""

    hints: toml.Names = ()
    """Once it serves, only lines with one of these are looked at; without any, every line is."""
    boot_hints: toml.Names = ()
    """Until then these count too: together they are in every line that a fact, a signature or a benign entry matches."""
    fact: Annotated[tuple[Fact, ...], toml.LISTED] = ()
    place: Annotated[tuple[Place, ...], toml.LISTED] = ()
    signature: Annotated[tuple[Signature, ...], toml.LISTED] = ()
    refusal: Annotated[tuple[Signature, ...], toml.LISTED] = ()
    """What a request is turned down with: no failure of the server, so it is not looked for in the log."""
    rate: RateLine | None = None
    canary: CanaryLine | None = None
    benign: Annotated[tuple[Benign, ...], toml.LISTED] = ()


def figures(readings: Mapping[str, str | None]) -> dict[str, float]:
    """
    Numbers as engines log them; what is no number is no reading, and bytes, KiB and MiB become GiB.

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
    """The readings that are words."""
    return {name: text for name, text in readings.items() if name in TEXT_FACTS and text is not None}


def load(path: Path) -> Catalogue:
    """The catalogue at *path*. Raises `TableError`."""
    return toml.load(path, Catalogue)
