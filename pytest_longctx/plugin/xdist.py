"""Send all tests of a deployment to one xdist worker, which boots the deployment once."""

from collections.abc import Iterable
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling


class ByDeployment(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """
    Scheduler that groups tests by deployment. (``--dist=loadgroup`` is not used: xdist 3.8 does not group under pytest
    9.2.)
    """

    def __init__(self, config: pytest.Config, log: Any, deployments: Iterable[str]) -> None:
        super().__init__(config, log)
        self.names = sorted(deployments, key=len, reverse=True)

    def _split_scope(self, nodeid: str) -> str:
        return next((name for name in self.names if nodeid.endswith((f"-{name}]", f"[{name}]"))), nodeid)
