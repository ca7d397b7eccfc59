"""What was seen of a server: the evidence a verdict rests on. ``None`` means not observed, never zero."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Outcome = Literal[
    "serves",
    "refuses",
    "runs out of memory",
    "asserts",
    "dies",
    "disconnects",
    "hangs",
    "is not admitted",
    "overcommits",
    "adds up",
    "cannot be",
    "is sound",
    "is flagged",
]
"""
What a server was seen to do. ``asserts``: it stopped on a failed assertion or another program error of a known kind;
``dies``: it stopped for a reason no signature knows; ``overcommits``: it came up with a KV cache that cannot hold one
request of the context it claims; ``adds up`` and ``cannot be`` are said of published figures, ``is sound`` and ``is
flagged`` of published command lines, not of servers.
"""


@dataclass(frozen=True, slots=True)
class Observation:
    """Evidence for a verdict: what was seen of a boot, of a request, or of several."""

    outcome: Outcome
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    phase: str | None = None
    signature: str | None = None
    said: str = ""
    """The server's own words about a refusal or a failure."""
    sent_tokens: int | None = None
    """Prompt tokens sent, where the server's count must equal them."""
    asked_tokens: int | None = None
    """Completion tokens asked for, where the server's count must equal them."""
