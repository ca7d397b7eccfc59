"""The door, where a run is one part of several: what belongs to another part is deselected."""

from collections.abc import Generator, Mapping
from typing import Any

import pytest

from pytest_longctx.errors import LongctxError
from pytest_longctx.plugin import shards
from pytest_longctx.plugin.selection import pair_of
from pytest_longctx.plugin.session import Session
from pytest_longctx.plugin.shards import Shard
from pytest_longctx.reports import analysis, results

_BOOT_S = 60.0
"""What a boot is taken to cost where neither its deployment nor an earlier run says so."""
_TEST_S = 1.0
"""And a test, beside its prompts."""


class Sharding:
    """Keeps of the collected tests those of this shard, and tells the results which they were part of."""

    def __init__(self, session: Session, shard: Shard, recorded: Mapping[str, float]) -> None:
        self.session = session
        self.shard = shard
        self.recorded = recorded

    @classmethod
    def of(cls, session: Session) -> "Sharding | None":
        """As the options say; None where the run is no part of anything. Raises `UsageError` and `ResultsError`."""
        if not session.options.shard:
            return None
        shard = Shard.parse(session.options.shard)
        times = shard.times and session.config.invocation_params.dir / shard.times.expanduser()
        return cls(session, shard, analysis.spent_s(results.read(times)) if times else {})

    @pytest.hookimpl(wrapper=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> Generator[None]:
        """Split what is left when everybody else has deselected: by deployment, and a test without one by itself."""
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
        """A worker of xdist has done the splitting, and tells."""
        self.session.shard = getattr(node, "workeroutput", {}).get("longctx_shard", self.session.shard)

    def _split(self, items: list[pytest.Item]) -> tuple[list[pytest.Item], list[pytest.Item]]:
        owners = {item.nodeid: _owner(item) for item in items}
        parts = shards.split(self._costs(items), self.shard.count)
        mine = [item for item in items if parts[owners[item.nodeid]] == self.shard.index]
        others = [item for item in items if parts[owners[item.nodeid]] != self.shard.index]
        self.session.shard = {
            "shard": str(self.shard),
            "split": shards.fingerprint(parts, owners),
            "whole_judges": any(self._boots(item) for item in items),
        }
        return mine, others

    def _boots(self, item: pytest.Item) -> bool:
        """Whether a server comes up for *item*, as far as is known."""
        finding, one = pair_of(item)
        if finding is None:
            return _owner(item) != item.nodeid
        return not finding.on_paper and self.session.selection.case(finding, one).misfit is None

    def _costs(self, items: list[pytest.Item]) -> dict[str, float]:
        """Seconds by owner: as an earlier run recorded them, else as predicted."""
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
    """The deployment whose server a test needs, or else the test itself."""
    params: dict[str, Any] = item.callspec.params if hasattr(item, "callspec") else {}
    name = getattr(params.get("deployment"), "name", None)
    return name if isinstance(name, str) else item.nodeid
