"""Accelerators that files may name: memory, bandwidth and peak, from the vendors' data sheets (``accelerators.toml``)."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True, slots=True)
class Accelerator:
    """One kind of device. A value is None if no data sheet states it."""

    kind: str
    memory_gb: int
    """As sold."""
    bandwidth_gbs: int
    """Memory bandwidth in GB/s."""
    link: str
    """How several devices of one host are connected."""
    family: str
    """Architecture, by which engines choose kernels and defaults."""
    source: str
    """The data sheet."""
    visible_gib: float | None = None
    """Memory in GiB, as PyTorch reports it; None if the engine does not use PyTorch."""
    seen: bool = False
    """Whether a log contains *visible_gib*. Otherwise, the value is computed with the share of a related device."""
    bf16: int | None = None
    """Dense TFLOP/s."""
    fp8: int | None = None
    names: tuple[str, ...] = ()
    """The name that the device reports."""
    note: str = ""
    instances: Mapping[str, int] = field(default_factory=dict)
    """Cloud machines with these devices: their number, by machine type."""

    @property
    def linked(self) -> bool:
        """Whether accelerators of one host reach each other without PCIe."""
        return self.link != "pcie"


@cache
def every() -> Mapping[str, Accelerator]:
    """Return every accelerator of ``accelerators.toml``, by kind."""
    text = (Path(__file__).parent / "accelerators.toml").read_text(encoding="utf-8")
    return MappingProxyType({kind: _of(kind, facts) for kind, facts in tomllib.loads(text).items()})


def _of(kind: str, facts: Mapping[str, Any]) -> Accelerator:
    return Accelerator(kind=kind, **{**facts, "names": tuple(facts.get("names", (kind,)))})


def kind_in(name: str) -> str | None:
    """
    Return the kind of accelerator whose name occurs in the *name* of a device, the longest match; None without a match.

    >>> kind_in("NVIDIA H100 80GB HBM3"), kind_in("NVIDIA A100-SXM4-40GB"), kind_in("NVIDIA L40S"), kind_in("AMD Instinct MI300X")
    ('H100', 'A100-40GB', 'L40S', 'MI300X')
    """
    found = [
        (len(each), one.kind)
        for one in every().values()
        for each in (*one.names, one.kind)
        if re.search(rf"\b{re.escape(each)}n?\b", name, re.IGNORECASE)
    ]
    return max(found, default=(0, None))[1]


def named(text: str) -> str | None:
    """
    Return the kind of accelerator that *text* names, in any case and with any blanks and hyphens; None if unknown.

    >>> named("rtx 4090"), named("A100-80GB"), named("h100_nvl"), named("5090"), named("H900")
    ('RTX4090', 'A100', 'H100-NVL', 'RTX5090', None)
    """
    return _spellings().get(_folded(text))


def instance(text: str) -> tuple[str, int] | None:
    """
    Return the kind and the number of the accelerators of the cloud machine *text*; None for any other text.

    >>> instance("trn2.48xlarge"), instance("p5.48xlarge"), instance("H100")
    (('trn2', 16), ('H100', 8), None)
    """
    return next(((one.kind, one.instances[text]) for one in every().values() if text in one.instances), None)


@cache
def _spellings() -> Mapping[str, str]:
    return {_folded(each): one.kind for one in every().values() for each in (*one.names, one.kind)}


def _folded(text: str) -> str:
    return re.sub(r"[\s_-]+", "", text).lower()
