"""Causes of memory use that are not counted: flags, environment variables, and dtypes that only a name states."""

import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from pytest_longctx import backends
from pytest_longctx.deployments.capacity import Prediction
from pytest_longctx.plan import classes
from pytest_longctx.plan.planned_server import Asked
from pytest_longctx.shapes import ModelShape


@cache
def _memory_table(name: str) -> Mapping[str, Mapping[str, Any]]:
    path = Path(backends.__file__).parent / "memory_flags.toml"
    found: Mapping[str, Mapping[str, Any]] = tomllib.loads(path.read_text(encoding="utf-8"))[name]
    return found


def memory_flags(engine: str) -> Mapping[str, Mapping[str, Any]]:
    """Return the flags of *engine* that affect the memory of a boot, by name: their effect, and the values without effect."""
    return _memory_table(engine)


def memory_variables(engine: str) -> Mapping[str, Mapping[str, Any]]:
    """
    Return the environment variables of *engine* that affect the memory of a boot, in the form of `memory_flags`. None
    is modelled.
    """
    return _memory_table(f"{engine}-environment")


def variables(asked: Asked) -> Iterator[str]:
    """Yield the environment variables of a boot that change its memory, with the effect of each."""
    for name, row in memory_variables(asked.engine).items():
        value = asked.env.get(name)
        if value is not None and str(value).lower() not in row.get("off", []):
            yield f"{name}={value}: {row['does']}" if len(str(value)) < 40 else f"{name}: {row['does']}"


_GRAPHS = ("cudagraph_mode", "cudagraph_capture_sizes", "max_cudagraph_capture_size", "cudagraph_num_of_warmups")


def graphs(asked: Asked) -> Iterator[str]:
    """Yield the keys of ``--compilation-config`` about graphs, unless it turns graphs off, which is counted."""
    try:
        told = json.loads(str(asked.flags.get("compilation-config", "{}")))
    except (ValueError, RecursionError):
        return
    if (
        isinstance(told, dict)
        and str(told.get("cudagraph_mode")).upper() != "NONE"
        and any(key in told for key in _GRAPHS)
    ):
        yield "--compilation-config: graphs take more or less memory"


def doubted(engine: str, missed: Iterable[str], seen: Prediction) -> Prediction:
    """
    Return the prediction *seen*, in doubt if it does not fit and an entry of *missed* reduces the memory on the
    devices.
    """
    if seen.fits or seen.doubt:
        return seen
    frees = tuple(f"--{name}" for name, row in memory_flags(engine).items() if row.get("frees"))
    one = next(
        (each for each in missed if each.startswith("weights in ") or each.partition(":")[0].split()[0] in frees), None
    )
    if one is None:
        return seen
    what = "the width of the weights" if one.startswith("weights in ") else one.partition(":")[0]
    return replace(seen, doubt=f"{what} is not counted and may reduce the memory use, so the server may fit")


def architecture(asked: Asked, whole: ModelShape | None, kind: str) -> str:
    """Return a note on a model without a class in the engine version that a fallback may serve; empty if there is a class."""
    found = classes.lacking(asked, whole, kind)
    if found is None or found.certain:
        return ""
    return f"{found.said}{f'; with one: {found.advice}' if found.advice else ''}"


_NARROW = re.compile(r"[-_](fp8|nvfp4|fp4|mxfp4|awq|gptq|int4|int8|w4a16|w8a8)\b|[.-](gguf|exl3)\b", re.IGNORECASE)


def named_otherwise(asked: Asked) -> str:
    """
    Return the width of the weights in the model's name if config.json does not confirm it; empty if both agree, or if
    the width is known from another source.
    """
    found = _NARROW.search(asked.model.replace("_", "-"))
    if found is None or quantised(asked) or asked.weight_bits != 16 or asked.flags.get("quantization"):
        return ""
    width = (found[1] or found[2]).upper()
    return f"weights in {width}, according to the model's name; config.json has no quantization_config, so 16 bits are counted"


def quantised(asked: Asked) -> bool:
    """Return whether the model's config states how the weights are stored."""
    return isinstance(asked.config, Mapping) and bool(asked.config.get("quantization_config") or asked.quantised)
