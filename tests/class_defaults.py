"""
The defaults of model types' classes, for keys that a config.json leaves out: ``pytest_longctx/shapes/defaults.toml``.

    python -m tests.class_defaults > defaults.toml       # with the installed transformers, then put in place
    python -m tests.class_defaults TYPE...               # the same, with tables of more model types

A table keeps its keys; their values are the class's. A new table has the numbers, truths and words of the class that have a name
on which memory may depend. `tests/unit/shapes/test_class_defaults.py` compares the file with the installed transformers.
"""

import json
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pytest_longctx import shapes
from pytest_longctx.shapes.config_keys import HARMLESS, SMELL

FILE = Path(shapes.__file__).parent / "defaults.toml"
FOUND = {("glm4_moe_lite", "first_k_dense_replace"): 1, ("axk1", "first_k_dense_replace"): 1}
"""What a class works out from other keys (mlp_layer_types), and so has no default for."""


def held() -> dict[str, dict[str, Any]]:
    """The tables of the file, by model type."""
    return tomllib.loads(FILE.read_text(encoding="utf-8"))


def classes() -> Mapping[str, type]:
    """The classes of the installed transformers, by model type."""
    from transformers import CONFIG_MAPPING  # seconds, for this alone

    found: Mapping[str, type] = CONFIG_MAPPING
    return found


def told(cls: type) -> dict[str, Any]:
    """What a class says without being asked to work anything out."""
    found = {key: getattr(cls, key) for key in dir(cls) if not key.startswith("__")}
    return {key: value for key, value in found.items() if type(value) in (bool, int, float, str)}


def table(name: str, cls: type, keys: Mapping[str, Any] | None) -> dict[str, Any]:
    """The table of the model type *name*, with *keys*, or with all that matter."""
    said = told(cls)
    if keys is None:
        return {key: value for key, value in said.items() if SMELL.search(key) and key not in HARMLESS}
    worked_out = {key: value for (owner, key), value in FOUND.items() if owner == name}
    return {key: {**said, **worked_out}[key] for key in keys}


def lines(names: list[str]) -> Iterator[str]:
    """The file, with tables of *names* besides those that it has."""
    import transformers  # as above

    known, mapped = held(), classes()
    yield f"# Defaults of transformers {transformers.__version__}; written by python -m tests.class_defaults."
    for name in sorted({*known, *names}):
        yield f"\n[{json.dumps(name)}]"
        for key, value in sorted(table(name, mapped[name], known.get(name)).items()):
            yield f"{key} = {value!r}" if type(value) is float else f"{key} = {json.dumps(value)}"


if __name__ == "__main__":
    print("\n".join(lines(sys.argv[1:])))
