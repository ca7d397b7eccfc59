"""Every probe family by its name in deployments, and a damaged copy of each."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from pytest_longctx.probe import decoders, gemma, hybrids
from pytest_longctx.probe.families import Family
from pytest_longctx.probe.questions import EVERYTHING, Windows
from pytest_longctx.probe.weights import Matrix

_STORES = ("k_proj.weight", "kv_a_proj_with_mqa.weight", "conv1d.weight")
"""Ends of the names of tensors through which everything passes that a layer stores of a key."""


def damaged(family: Family) -> Family:
    """Return a copy of *family* whose first answering layer stores keys of zero, so that it loses its own needles alone."""

    def build(_: Family) -> Mapping[str, Matrix]:
        made = dict(family.build(family))
        for name in stores(made, family.layers[0].index):
            made[name] = np.zeros_like(made[name])
        return made

    return replace(family, build=build)


def stores(tensors: Iterable[str], layer: int) -> list[str]:
    """Return the names of the *tensors* through which *layer* stores a key."""
    return [name for name in tensors if f".layers.{layer}." in name and name.endswith(_STORES)]


_SOUND: Mapping[str, Family] = MappingProxyType(
    {
        "probe-mha-64": decoders.llama(8, 8, 64),
        "probe-gqa-80": decoders.llama(8, 2, 80),
        "probe-gqa-96": decoders.llama(8, 2, 96),
        "probe-gqa-128": decoders.llama(8, 2, 128),
        "probe-gqa-256": decoders.llama(8, 2, 256),
        "probe-mqa-128": decoders.llama(8, 1, 128),
        "probe-qwen3": decoders.qwen3(),
        "probe-mistral": decoders.mistral(),
        "probe-gemma2": gemma.gemma2(),
        "probe-gemma3": gemma.gemma3(),
        "probe-gpt-oss": decoders.gpt_oss(),
        "probe-deepseek-v2": decoders.deepseek(2),
        "probe-deepseek-v3": decoders.deepseek(3),
        "probe-qwen3-next": hybrids.qwen3_next(),
        "probe-qwen3.5": hybrids.qwen3_5(),
        "probe-nemotron-h": hybrids.nemotron_h(),
        "probe-mamba2": hybrids.mamba2(),
    }
)

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {**_SOUND, **{f"{name}-damaged": damaged(family) for name, family in _SOUND.items()}}
)
"""Every family by its ``make`` in a deployment, and its damaged copy as ``make`` with ``-damaged``."""


def windows(make: str | None) -> Windows:
    """Return, for each key of the probe *make*, the number of tokens that its layer sees; all tokens for any other model."""
    family = FAMILIES.get(make or "")
    return family.windows if family else EVERYTHING
