"""Settings that a deployment leaves to the machine: GPU, context, dtype on a CPU, and expected times."""

from collections.abc import Sequence
from math import inf
from typing import Any

from pytest_longctx import toml
from pytest_longctx.backends import Backend
from pytest_longctx.deployments import models, roofline
from pytest_longctx.deployments.cpu_speed import fastest_by_flags
from pytest_longctx.deployments.deployment import FASTEST, Deployment
from pytest_longctx.deployments.hardware import ANY_GPU, Hardware, Machine
from pytest_longctx.errors import UsageError
from pytest_longctx.units import GiB


def settle(one: Deployment, backend: Backend, here: Machine) -> Deployment:
    """
    Return the deployment *one* with its defaults resolved for *here*: GPU, context, ``dtype = "fastest"`` of a CPU, and
    expected times.

    The context is the longest that fits the GPU. Raises `TableError`.
    """
    one = _on_this_gpu(one, backend, here.hardware)
    flags = one.flags
    if flags.get("dtype") == FASTEST:
        if not backend.on_cpu:
            raise UsageError(
                f"{one.name}: [flags] dtype = {FASTEST!r} needs a backend that runs on a CPU; {backend.name} does "
                "not. Write auto or bfloat16"
            )
        measured = here.speed.fastest_dtype if here.speed else fastest_by_flags(here.cpu_flags)
        flags = {**flags, "dtype": measured}
    timeouts = one.timeouts.model_copy(update=_expected(one, str(flags.get("dtype", "bfloat16")), here))
    return one.model_copy(update={"flags": flags, "timeouts": timeouts})


def without_superseded(
    every: Sequence[Deployment], there: Hardware | None, version: str | None = None
) -> tuple[Deployment, ...]:
    """
    Return *every* deployment, except those for any GPU whose model another deployment serves on exactly the GPUs of
    *there*.
    """
    return tuple(one for one in every if not any(_supersedes(each, one, there, version) for each in every))


def _supersedes(other: Deployment, one: Deployment, there: Hardware | None, version: str | None) -> bool:
    needs = Hardware.parse(one.hardware) if one.hardware else None
    if needs is None or needs.kind != ANY_GPU or there is None or not there.carries(needs):
        return False
    exact = other.hardware == str(Hardware(there.kind, needs.count)) and other.model.make == one.model.make
    known = version is None or other.version is None or toml.in_range(version, other.version)
    return exact and known and not other.only_named and not other.only_questions


def _on_this_gpu(one: Deployment, backend: Backend, there: Hardware | None) -> Deployment:
    """Return the deployment *one* for the GPU of *there* if it is for any GPU; otherwise unchanged."""
    needs = Hardware.parse(one.hardware) if one.hardware else None
    if needs is None or needs.kind != ANY_GPU or there is None or not there.carries(needs):
        return one
    gpus = Hardware(there.kind, needs.count)
    timeouts = one.timeouts.model_copy(update=_expected_of_gpus(one, gpus))
    placed = one.model_copy(update={"hardware": str(gpus), "timeouts": timeouts})
    return placed.model_copy(update={"max_model_len": _longest(placed, backend, there.device_gib)})


def _longest(one: Deployment, backend: Backend, device_gib: float | None) -> int | None:
    """
    Return the default context of *one* in tokens: the longest of its context lengths that is predicted to fit and to be
    computed in time, else the shortest. Without a list of lengths, return the configured length, which may be None.
    """
    shape = models.shape_of(one.model)
    if shape is None or device_gib is None:
        return one.context_lengths[-1] if one.context_lengths else one.max_model_len
    for length in one.context_lengths:
        tried = one.model_copy(update={"max_model_len": length})
        found = backend.predict(tried, shape, device_gib * GiB)
        affordable = tried.timeouts.expected_prefill_s(length) <= (tried.longest_prompt_s or inf)
        if found is not None and found.fits and not found.doubt and affordable:
            return length
    return one.context_lengths[-1] if one.context_lengths else one.max_model_len


def _expected_of_gpus(one: Deployment, gpus: Hardware) -> dict[str, float]:
    """
    Return the expected prefill times on *gpus*: the roofline at `USUAL_UTILISATION`.

    Without a data sheet, the times of the slowest known GPU are returned.
    """
    shape = models.shape_of(one.model)
    if shape is None:
        return {}
    tflops = roofline.PEAK_TFLOPS.get(gpus.kind, {}).get(2) or min(
        each[2] for each in roofline.PEAK_TFLOPS.values() if 2 in each
    )
    rate = tflops * 1e12 * gpus.count * roofline.USUAL_UTILISATION
    products, local, full = roofline.prefill_terms(shape)
    return {"expected_s_per_token": (products + local) / rate, "expected_s_per_token_squared": full / rate}


def _expected(one: Deployment, dtype: str, here: Machine) -> dict[str, Any]:
    """Return the expected times of a boot and of a prefill on a CPU of measured speed."""
    shape, speed = models.shape_of(one.model), here.speed
    if speed is None:
        return {}
    boot = {"expected_boot_s": speed.boot_s}
    if shape is None:
        return boot
    products, local, full = roofline.prefill_terms(shape)
    return {
        **boot,
        "expected_s_per_token": speed.prefill_s(products, local, dtype, shape.head_dim),
        "expected_s_per_token_squared": speed.prefill_s(0.0, full, dtype, shape.head_dim),
    }
