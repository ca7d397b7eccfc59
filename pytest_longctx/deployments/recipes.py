"""
Starts of vLLM in a recipe, a YAML file that the vLLM project publishes for a model.

The order of arguments, the choice of overrides by hardware and the size of tensor parallelism follow the published
``command-synthesis.js`` (vllm-project/recipes, August 2026) for its default strategy: one node with tensor parallelism.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from pytest_longctx.deployments.command import Start
from pytest_longctx.deployments.hardware import Hardware
from pytest_longctx.errors import UsageError

_GENERATIONS: Mapping[str, str] = {
    **dict.fromkeys(("H100", "H200", "H20", "H800", "GH200"), "hopper"),
    **dict.fromkeys(("B200", "B300", "GB200", "GB300"), "blackwell"),
    **dict.fromkeys(("A100", "A800", "A10", "A40"), "ampere"),
    **dict.fromkeys(("L40S", "L4", "L40"), "ada"),
    **dict.fromkeys(("MI250X", "MI300X", "MI325X", "MI355X"), "amd"),
    **dict.fromkeys(("trn1", "trn2"), "neuron"),
    "cpu": "cpu",
}


def is_recipe(document: Any) -> bool:
    """Return whether *document* has the tables of a vLLM recipe."""
    return (
        isinstance(document, Mapping)
        and isinstance(document.get("variants"), Mapping)
        and isinstance(document.get("model"), Mapping)
        and "model_id" in document["model"]
    )


def starts(recipe: Mapping[str, Any], hardware: Hardware, device_gb: float, where: str) -> Iterator[Start]:
    """Yield the vLLM start of every variant of *recipe* on *hardware* with *device_gb* per device. Raises `UsageError`."""
    for name, variant in recipe["variants"].items():
        if not isinstance(variant, Mapping):
            raise UsageError(f"{where}: variants.{name}: must be a table")
        model = variant.get("model_id") or recipe["model"]["model_id"]
        rows = (recipe["model"].get("base_args"), variant.get("extra_args"), *_overrides(recipe, variant, hardware))
        words = [part for row in rows for word in (row if isinstance(row, list) else []) for part in _parts(str(word))]
        version = recipe["model"].get("min_vllm_version")
        yield Start(
            "vllm",
            (str(model), "--tensor-parallel-size", str(_devices(recipe, variant, hardware, device_gb)), *words),
            where=f"{where}, variant {name}",
            env=_environment(recipe, variant, hardware),
            raw={"since": str(version) if version else None, "precision": variant.get("precision")},
        )


def _parts(word: str) -> list[str]:
    """
    Return the parts of a *word* of a recipe, which may be a flag with its value. The published tool joins all words by
    spaces.
    """
    name, space, value = word.partition(" ")
    return [name, value.strip()] if space and name.startswith("--") and "=" not in name else [word]


def _keys(hardware: Hardware) -> tuple[str, ...]:
    """Return the keys by which a recipe's table may name *hardware*, the most specific first."""
    generation = _GENERATIONS.get(hardware.kind, "")
    brand = generation if generation in ("amd", "neuron", "cpu") else "nvidia"
    return tuple(key for key in (hardware.kind.lower(), generation, brand) if key)


def _chosen(table: Any, hardware: Hardware) -> Any:
    if not isinstance(table, Mapping):
        return None
    return next((table[key] for key in (*_keys(hardware), "default") if key in table), None)


def _overrides(recipe: Mapping[str, Any], variant: Mapping[str, Any], hardware: Hardware) -> Iterator[Any]:
    for holder in (recipe, variant):
        chosen = _chosen(holder.get("hardware_overrides"), hardware)
        yield chosen.get("extra_args") if isinstance(chosen, Mapping) else None


def _environment(recipe: Mapping[str, Any], variant: Mapping[str, Any], hardware: Hardware) -> dict[str, str]:
    tables = [recipe["model"].get("base_env"), variant.get("extra_env")]
    for holder in (recipe, variant):
        chosen = _chosen(holder.get("hardware_overrides"), hardware)
        tables.append(chosen.get("extra_env") if isinstance(chosen, Mapping) else None)
    return {str(k): str(v) for table in tables if isinstance(table, Mapping) for k, v in table.items()}


def _devices(recipe: Mapping[str, Any], variant: Mapping[str, Any], hardware: Hardware, device_gb: float) -> int:
    """
    Return the number of devices for tensor parallelism: the recipe's number, one if the variant's least memory fits on
    one, else all.
    """
    strategy = recipe.get("strategy_overrides")
    own = strategy.get("single_node_tp") if isinstance(strategy, Mapping) else None
    for said in (variant.get("tp"), own.get("tp") if isinstance(own, Mapping) else None):
        number = said if isinstance(said, int) else _chosen(said, hardware)
        if isinstance(number, int) and number > 0:
            return min(number, hardware.count)
    least = variant.get("vram_minimum_gb")
    return 1 if isinstance(least, int | float) and 0 < least <= device_gb else hardware.count
