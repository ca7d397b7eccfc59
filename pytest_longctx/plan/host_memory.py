"""Memory of the host: tables of all ranks, caches of tokens and weights, and SGLang's refusal if it is too small."""

from collections.abc import Iterator
from dataclasses import replace

from pytest_longctx.deployments.capacity import Prediction, Term
from pytest_longctx.plan.parallel import Spread
from pytest_longctx.plan.planned_server import Asked, within
from pytest_longctx.plan.refusals import Refusal
from pytest_longctx.units import GiB

_GB = 1e9


def with_hosts(asked: Asked, spread: Spread, found: Prediction) -> Prediction:
    """Return the prediction *found* with the host memory of all ranks and of the caches that are kept on the host."""
    ranks = 1 if spread.shared else spread.data
    terms = tuple(_of_ranks(term, ranks) if term.host and ranks > 1 else term for term in found.terms)
    return replace(found, terms=(*terms, *_host_caches(asked, spread, found)))


def _of_ranks(term: Term, ranks: int) -> Term:
    return replace(term, name=f"{ranks} ranks, each {term.name}", size_bytes=term.size_bytes * ranks)


_HICACHE = "hierarchical cache"
_HICACHE_RESERVE_BYTES = 10 * GiB
"""What SGLang keeps free on the host beside its hierarchical cache (0.5.16 to 0.5.23, ``memory_pool_host.py``)."""


def hierarchical_cache(asked: Asked, spread: Spread, found: Prediction, host_bytes: float | None) -> Refusal | None:
    """
    Return SGLang's refusal of hierarchical caches, one per rank, that exceed the host's free memory; None without a
    refusal.
    """
    term = next((each for each in found.terms if each.name.startswith(_HICACHE)), None)
    flags = asked.flags
    if term is None or host_bytes is None or term.size_bytes + _HICACHE_RESERVE_BYTES <= host_bytes:
        return None
    if not flags.get("hicache-size") and "hicache-ratio" not in flags and not within(asked.version, "<0.5.21"):
        return None  # since 0.5.21 a size that was not asked for is reduced until it fits
    free = max(0.0, host_bytes - _HICACHE_RESERVE_BYTES)
    each_gb = int(free / spread.devices / _GB)
    missing = (term.size_bytes - free) / GiB
    said = (
        f"{term} is requested, but only {free / GiB:.2f} GiB are available besides the {_HICACHE_RESERVE_BYTES / GiB:.0f} GiB "
        f"that are kept free; {missing:.2f} GiB are missing"
    )
    smaller = [{"hicache-size": each_gb, "hicache-ratio": None}] if each_gb else []
    return Refusal("host-oom", "kv_cache", said, (*smaller, {"enable-hierarchical-cache": None}))


def _host_caches(asked: Asked, spread: Spread, found: Prediction) -> Iterator[Term]:
    """
    Yield the host memory of caches of tokens and of weights. GB are decimal: ``hicache-size`` x 1e9 in SGLang's
    ``memory_pool_host.py``.
    """
    flags, devices = asked.flags, spread.devices
    if asked.engine == "vllm":
        sizes = {"kv-offloading-size": 1, "cpu-offload-gb": devices, "swap-space": devices}
        for name, times in sizes.items():
            value = flags.get(name)
            if isinstance(value, int | float) and value > 0:
                yield Term(f"--{name}", value * times * GiB, host=True)
        return
    if not flags.get("enable-hierarchical-cache"):
        return
    size, ratio = flags.get("hicache-size", 0), flags.get("hicache-ratio", 2.0)
    pool = next((term.size_bytes for term in found.terms if term.name == "KV pool"), 0.0)
    if isinstance(size, int | float) and size > 0:
        yield Term(f"{_HICACHE} of {devices} ranks", size * devices * _GB, host=True)
    elif isinstance(ratio, int | float):
        yield Term(f"{_HICACHE} of {devices} ranks", ratio * pool * devices, host=True)
