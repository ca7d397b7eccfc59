"""Resolve what a deployment leaves to the machine: its dtype on a CPU, and the expected times."""

from typing import Any

from pytest_longctx.backends import Backend
from pytest_longctx.deployments import capacity, models
from pytest_longctx.deployments.cpu_speed import fastest_by_flags
from pytest_longctx.deployments.deployment import FASTEST, Deployment
from pytest_longctx.deployments.hardware import Machine
from pytest_longctx.errors import UsageError


def settle(one: Deployment, backend: Backend, here: Machine) -> Deployment:
    """Resolve ``dtype = "fastest"`` of *one* for the CPU of *here*, and add the expected times. Raises `TableError`."""
    flags = one.flags
    if flags.get("dtype") == FASTEST:
        if not backend.on_cpu:
            raise UsageError(
                f"{one.name}: [flags] dtype = {FASTEST!r} is for backends that compute on a CPU, and {backend.name} does "
                "not; write auto or bfloat16"
            )
        measured = here.speed.fastest_dtype if here.speed else fastest_by_flags(here.cpu_flags)
        flags = {**flags, "dtype": measured}
    timeouts = one.timeouts.model_copy(update=_expected(one, str(flags.get("dtype", "bfloat16")), here))
    return one.model_copy(update={"flags": flags, "timeouts": timeouts})


def _expected(one: Deployment, dtype: str, here: Machine) -> dict[str, Any]:
    """Expected times of a boot and of a prefill on a CPU whose speed was measured."""
    shape, speed = models.shape_of(one.model), here.speed
    if speed is None:
        return {}
    boot = {"expected_boot_s": speed.boot_s}
    if shape is None:
        return boot
    products, local, full = capacity.prefill_terms(shape)
    return {
        **boot,
        "expected_s_per_token": speed.prefill_s(products, local, dtype, shape.head_dim),
        "expected_s_per_token_squared": speed.prefill_s(0.0, full, dtype, shape.head_dim),
    }
