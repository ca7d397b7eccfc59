"""The devices of this machine that a deployment may use: leased before anybody looks at them, and until they are free again."""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from pytest_longctx.deployments.deployment import Deployment
from pytest_longctx.deployments.hardware import Hardware
from pytest_longctx.devices import leases
from pytest_longctx.progress import Progress, Watch


@contextmanager
def own(deployment: Deployment, there: Hardware | None, watch: Watch) -> Iterator[Mapping[str, str]]:
    """
    The environment in which *deployment* sees only devices of its own; empty where it needs all of *there*, or none.

    Raises `LaunchError` where there are too few.
    """
    wanted = Hardware.parse(deployment.hardware) if deployment.hardware else None
    if wanted is None or there is None or wanted.kind != there.kind or wanted.kind == "cpu":
        yield {}
        return

    began_s = time.monotonic()

    def waits() -> None:
        what, most_s = f"boot {deployment.name}", deployment.timeouts.boot_s
        watch(Progress(what, f"waiting for {wanted}", time.monotonic() - began_s, most_s))

    with leases.lease(wanted.kind, wanted.count, there.count, {**os.environ, **deployment.env}, waits) as shown:
        yield shown if wanted.count < there.count else {}
