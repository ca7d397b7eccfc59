"""Which part of a run this machine does: whole deployments, so that no server is booted in two parts."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pytest_longctx.errors import UsageError


@dataclass(frozen=True, slots=True)
class Shard:
    """Part *index* of *count*, from 1 on; *times* is a results file whose times balance the parts."""

    index: int
    count: int
    times: Path | None = None

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """
        As it is typed. Raises `UsageError`.

        >>> Shard.parse("2/4")
        Shard(index=2, count=4, times=None)
        """
        match = re.fullmatch(r"([0-9]{1,4})/([0-9]{1,4})(?::(.+))?", text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise UsageError(f"--longctx-shard: {text!r}: write K/N, as 1/4 to 4/4; or K/N:results.jsonl for its times")
        return cls(int(match[1]), int(match[2]), Path(match[3]) if match[3] else None)

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def split(costs_s: Mapping[str, float], count: int) -> dict[str, int]:
    """
    The part, from 1 to *count*, of everything that *costs_s* names: the dearest first, each to the part that has least to do.

    The same on every machine that is given the same. No part takes longer than an even share and the dearest single thing.
    """
    loads = [0.0] * count
    sizes = [0] * count
    parts: dict[str, int] = {}
    for name in sorted(costs_s, key=lambda each: (-costs_s[each], each)):
        least = min(range(count), key=lambda part: (loads[part], sizes[part], part))
        loads[least] += costs_s[name]
        sizes[least] += 1
        parts[name] = least + 1
    return parts


def fingerprint(parts: Mapping[str, int], tests: Iterable[str]) -> str:
    """Who does what, as 12 hex digits: parts that were split differently do not make a whole."""
    told = "\n".join((*(f"{name} {part}" for name, part in sorted(parts.items())), *sorted(tests)))
    return hashlib.sha256(told.encode()).hexdigest()[:12]
