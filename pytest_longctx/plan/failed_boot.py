"""Remedies of a failed boot that were checked with the prediction."""

from collections.abc import Iterator
from pathlib import Path

from pytest_longctx.deployments.deployment import Deployment
from pytest_longctx.deployments.hardware import Machine
from pytest_longctx.errors import LongctxError
from pytest_longctx.observation import Kind
from pytest_longctx.plan import cures
from pytest_longctx.plan.boots import foresee
from pytest_longctx.plan.place import Place
from pytest_longctx.plan.planned_server import Given, of_deployment
from pytest_longctx.units import GiB

_OF_MEMORY: tuple[Kind, ...] = ("kv-cache-too-small", "mamba-blocks", "host-oom")


def rows(kind: Kind, one: Deployment, machine: Machine) -> Iterator[str]:
    """
    Yield remedies of a failed boot: each change of flags with which *one* is predicted to serve on *machine*.

    Only failures for lack of memory have such rows. If the boot contradicts the prediction, a row says so instead.
    Without a prediction (another engine, an unknown device or model), no row is yielded.
    """
    if machine.hardware is None or not (kind in _OF_MEMORY or kind.startswith("gpu-oom")):
        return
    try:
        asked = of_deployment(one, Given(), Path())
    except LongctxError:
        return
    size_bytes = (machine.hardware.device_gib or 0.0) * GiB
    boot = foresee(asked, Place(machine.hardware, size_bytes, machine.host_bytes))
    if boot.sure:
        yield "the prediction was that the server serves: longctx plan shows its terms; the log is right"
    for each in cures.find(boot):
        yield f"{each}: {each.result}, by the prediction"
