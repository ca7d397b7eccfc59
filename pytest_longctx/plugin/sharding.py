"""Shards of a run: assign deployments to shards, and deselect the tests of all other shards."""

import hashlib
import re
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pytest_longctx.errors import LongctxError, UsageError
from pytest_longctx.plugin.selection import pair_of
from pytest_longctx.plugin.session import Session
from pytest_longctx.reports import analysis, results


@dataclass(frozen=True, slots=True)
class Shard:
    """Part *index*, counted from 1, of *count* parts. *times* is a results file whose recorded times balance the parts."""

    index: int
    count: int
    times: Path | None = None

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """
        Return the shard that ``--longctx-shard`` names. Raises `UsageError`.

        >>> Shard.parse("2/4")
        Shard(index=2, count=4, times=None)
        """
        match = re.fullmatch(r"([0-9]{1,4})/([0-9]{1,4})(?::(.+))?", text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise UsageError(
                f"--longctx-shard: {text!r}: write K/N, such as 1/4, or K/N:results.jsonl to balance the parts by its times"
            )
        return cls(int(match[1]), int(match[2]), Path(match[3]) if match[3] else None)

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def split(costs_s: Mapping[str, float], count: int) -> dict[str, int]:
    """
    Return the shard of each name, for *costs_s* and *count* shards: the most expensive name first, each to the shard
    with the least work.

    Equal input gives equal parts on every machine. No part takes longer than an even share plus the most expensive
    name.
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
    """Return the fingerprint of a split into shards, 12 hex digits. Parts of different splits cannot be merged."""
    told = "\n".join((*(f"{name} {part}" for name, part in sorted(parts.items())), *sorted(tests)))
    return hashlib.sha256(told.encode()).hexdigest()[:12]


_BOOT_S = 60.0
"""Assumed time of a boot, if neither its deployment nor an earlier run gives it."""
_TEST_S = 1.0
"""The assumed time of a test, without its prompts."""


class Sharding:
    """Plugin that keeps the tests of this shard, and records in the results how the tests were split."""

    def __init__(self, session: Session, shard: Shard, recorded: Mapping[str, float]) -> None:
        self.session = session
        self.shard = shard
        self.recorded = recorded

    @classmethod
    def of(cls, session: Session) -> "Sharding | None":
        """Return the sharding that the options set; None for a whole run. Raises `UsageError` and `ResultsError`."""
        if not session.options.shard:
            return None
        shard = Shard.parse(session.options.shard)
        times = shard.times and session.config.invocation_params.dir / shard.times.expanduser()
        return cls(session, shard, analysis.spent_s(results.read(times)) if times else {})

    @pytest.hookimpl(wrapper=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> Generator[None]:
        """
        Split the tests that other hooks kept into shards by deployment. A test without a deployment is a group of its
        own.
        """
        yield
        try:
            mine, others = self._split(items)
        except LongctxError as problem:
            raise pytest.UsageError(str(problem)) from None
        if others:
            config.hook.pytest_deselected(items=others)
            items[:] = mine
        if hasattr(config, "workeroutput"):
            config.workeroutput["longctx_shard"] = self.session.shard

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Store how an xdist worker split the tests into shards."""
        self.session.shard = getattr(node, "workeroutput", {}).get("longctx_shard", self.session.shard)

    def _split(self, items: list[pytest.Item]) -> tuple[list[pytest.Item], list[pytest.Item]]:
        owners = {item.nodeid: _owner(item) for item in items}
        parts = split(self._costs(items), self.shard.count)
        mine = [item for item in items if parts[owners[item.nodeid]] == self.shard.index]
        others = [item for item in items if parts[owners[item.nodeid]] != self.shard.index]
        self.session.shard = {
            "shard": str(self.shard),
            "split": fingerprint(parts, owners),
            "whole_judges": any(self._boots(item) for item in items),
        }
        return mine, others

    def _boots(self, item: pytest.Item) -> bool:
        """Return whether *item* needs a server in its shard, as far as this is known."""
        finding, one = pair_of(item)
        if finding is None:
            return _owner(item) != item.nodeid
        return not finding.on_paper and self.session.selection.case(finding, one).misfit is None

    def _costs(self, items: list[pytest.Item]) -> dict[str, float]:
        """Return the cost of each deployment or test in seconds: recorded by an earlier run or, without one, predicted."""
        chosen = self.session.selection
        pairs = [pair_of(item) for item in items]
        planned = chosen.plan(chosen.case(*pair) for pair in pairs if pair[0] is not None)
        predicted = {row.deployment: (row.boot_s or _BOOT_S) + (row.test_s or 0.0) for row in planned.rows}
        costs: dict[str, float] = {}
        for item in items:
            costs[_owner(item)] = costs.get(_owner(item), 0.0) + _TEST_S
        booted = {_owner(item) for item in items if self._boots(item)}
        return {
            name: self.recorded.get(name, predicted.get(name, _BOOT_S) + cost if name in booted else cost)
            for name, cost in costs.items()
        }


def _owner(item: pytest.Item) -> str:
    """Return the deployment by which a test is assigned to a shard; the test itself if it needs no server."""
    params: dict[str, Any] = item.callspec.params if hasattr(item, "callspec") else {}
    name = getattr(params.get("deployment"), "name", None)
    return name if isinstance(name, str) else item.nodeid
