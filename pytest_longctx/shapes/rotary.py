"""The table of rotary embeddings that engines keep in addition to the weights: one row per position, on every device."""

from collections.abc import Mapping
from typing import Any

from pytest_longctx.shapes.caches import Attention, Latent
from pytest_longctx.shapes.config_keys import Keys
from pytest_longctx.shapes.model import Body

WITHOUT = frozenset(
    {
        "nemotron_h",
        "jamba",
        "bloom",
        "mpt",
        "gpt2",
        "opt",
        "gpt_bigcode",
        "zamba2",
        "mamba",
        "mamba2",
        "falcon_mamba",
        "rwkv",
        "inkling_text",
    }
)
"""Families whose positions have no such table."""


def dimension(k: Keys, body: Body, family: str) -> int:
    """Return the number of values in a row of the rotary table; 0 if no layer rotates its queries and keys by position."""
    if (
        family in WITHOUT
        or k.raw("position_embedding_type") in ("nope", "alibi", "absolute")
        or k.raw("mla_use_nope") is True
    ):
        return 0
    caches = [cache for layer in body.layers for cache in layer.caches]
    latent = next((cache for cache in caches if isinstance(cache, Latent)), None)
    if latent is not None:
        return latent.rope_dim
    attention = next((cache for cache in caches if isinstance(cache, Attention)), None)
    if attention is None:
        return 0
    absolute = k.raw("rotary_dim")
    if isinstance(absolute, int) and not isinstance(absolute, bool) and 0 < absolute <= attention.key_dim:
        return absolute
    return int(attention.key_dim * _part(k))


def stretch(k: Keys) -> float:
    """
    Return the number of rows of the rotary table for each position: the factor of linear or dynamic scaling, else one.

    Observed for Gemma 3 in vLLM 0.19: 0.5 GiB of 1,048,576 rows for 131,072 positions
    (``LinearScalingRotaryEmbedding``).
    """
    for key in ("rope_scaling", "rope_parameters"):
        table = k.raw(key)
        # Gemma 3's newer spelling has a table for each kind of layer.
        nested = [each for each in table.values() if isinstance(each, Mapping)] if isinstance(table, Mapping) else []
        for one in (table, *nested):
            if isinstance(one, Mapping) and one.get("rope_type", one.get("type")) in ("linear", "dynamic"):
                factor = one.get("factor")
                if isinstance(factor, int | float) and not isinstance(factor, bool) and 1 <= factor <= MOST_STRETCH:
                    return float(factor)
    return 1.0


MOST_STRETCH = 1024
"""A factor above this is no scaling of positions."""


def _part(k: Keys) -> float:
    """Return the share of a head that rotary embeddings rotate."""
    nested = k.raw("rope_parameters")
    values: list[Any] = [k.raw("partial_rotary_factor"), k.raw("rotary_pct")]
    if isinstance(nested, Mapping):
        values.append(nested.get("partial_rotary_factor"))
    for value in values:
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1:
            return float(value)
    return 1.0


def is_scaled(config: Mapping[str, Any]) -> bool:
    """
    Return whether a *config* extends its rotary embeddings beyond the positions of the training, by any scaling except
    "default".
    """
    text = config.get("text_config")
    parts = (config, text) if isinstance(text, Mapping) else (config,)
    tables = [part[key] for part in parts for key in ("rope_scaling", "rope_parameters") if part.get(key)]
    return any(not isinstance(table, Mapping) or _kind(table) != "default" for table in tables)


def _kind(table: Mapping[str, Any]) -> Any:
    return table.get("rope_type", table.get("type", "default"))
