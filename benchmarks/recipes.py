"""
What vLLM's recipes (vllm-project/recipes) claim to fit, beside the plan; and the configs that AIConfigurator ships, read.

    git clone https://github.com/vllm-project/recipes && git clone https://github.com/ai-dynamo/aiconfigurator
    python benchmarks/recipes.py recipes aiconfigurator > docs/results/planner/recipes.md

A recipe has no config.json: AIConfigurator's and those of tests/data/shapes/models.json stand in, by the model's name. A pair of
a variant and a hardware profile claims that the weights fit on as few GPUs as its ``vram_minimum_gb`` needs; the plan is asked
the same for 8,192 tokens, 256 requests and the engine's default share. Needs PyYAML.
"""

import io
import json
import re
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from pytest_longctx.backends.vllm import Vllm
from pytest_longctx.deployments import accelerators
from pytest_longctx.deployments import shape as shapes
from pytest_longctx.deployments.capacity import Prediction
from pytest_longctx.deployments.deployment import Deployment
from pytest_longctx.shapes import ModelShape, NotUnderstood, read
from pytest_longctx.units import GiB

HERE = Path(__file__).parent
CONFIGS = "aic-core/src/aiconfigurator_core/model_configs/"
PROFILES = {
    "dgx_spark_gb10": "GB10",
    "rtx_pro_6000_2x": "RTXPRO6000",
    "rtx_pro_6000": "RTXPRO6000",
    "dgx_station_gb300": "GB300",
}
"""Kinds of those profiles that are not named as one."""
QUANTIZED: dict[str, dict[str, Any]] = {
    "fp8": {"quant_method": "fp8"},
    "nvfp4": {"quant_method": "modelopt", "quant_algo": "NVFP4"},
    "fp4": {"quant_method": "modelopt", "quant_algo": "NVFP4"},
    "mxfp4": {"quant_method": "mxfp4"},
    "int4": {"quant_method": "gptq", "bits": 4, "group_size": 128},
    "int8": {"quant_method": "fp8"},
}
"""What a variant's precision means where its own config is not at hand."""


@cache
def _archive(repository: Path, under: str) -> dict[str, str]:
    """The text files under a folder of the newest commit, by path."""
    command = ("git", "-C", str(repository), "archive", "HEAD", under)
    packed = subprocess.run(command, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        return {each.name: content.read().decode() for each in tar if (content := tar.extractfile(each)) is not None}


def _yaml(written: str) -> Any:
    return yaml.load(written, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def shipped(repository: Path) -> dict[str, tuple[Any, Any]]:
    """AIConfigurator's config.json files with what stands beside them, by the model's name."""
    paths = _archive(repository, CONFIGS)
    made: dict[str, tuple[Any, Any]] = {}
    for path in paths:
        if path.endswith("_hf_quant_config.json") or not path.endswith("_config.json"):
            continue
        beside = path.replace("_config.json", "_hf_quant_config.json")
        quantised = json.loads(paths[beside]) if beside in paths else None
        name = Path(path).name.removesuffix("_config.json").replace("--", "/")
        made[name] = (json.loads(paths[path]), quantised)
    return made


@cache
def _known() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((HERE.parent / "tests/data/shapes/models.json").read_text(encoding="utf-8"))
    return found


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", name.rpartition("/")[2].lower())


@dataclass(frozen=True)
class Pair:
    """One claim, and what the plan says of it."""

    model: str
    variant: str
    hardware: str
    claimed_gb: float
    found: Prediction | str
    weights_gb: float = 0.0

    @property
    def verdict(self) -> str:
        """Agrees, disagrees, in doubt, or why nothing is said."""
        if isinstance(self.found, str):
            return self.found
        if self.found.doubt:
            return "in doubt"
        return "agrees" if self.found.fits else f"disagrees: {self.found.outcome}"


def pairs(recipes: Path, configs: dict[str, tuple[Any, Any]]) -> Iterator[Pair]:
    """Every variant of every recipe with every hardware that it names."""
    profiles = _yaml(_archive(recipes, "taxonomy.yaml")["taxonomy.yaml"])["hardware_profiles"]
    by_name = {_plain(name): each for name, each in configs.items()}
    by_name |= {
        _plain(name): (entry["config"], None) for name, entry in _known().items() if _plain(name) not in by_name
    }
    for written in _archive(recipes, "models").values():
        recipe = _yaml(written)
        model, hardware = recipe["model"], recipe["meta"].get("hardware") or {}
        for label, variant in recipe["variants"].items():
            name = variant.get("model_id") or model["model_id"]
            shape = _shape(by_name, name, model["model_id"], str(variant.get("precision", "bf16")).lower())
            for key in hardware:
                claimed = float(variant.get("vram_minimum_gb") or 0)
                yield _pair(Pair(name, label, key, claimed, "no vram_minimum_gb"), shape, profiles.get(key))


def _shape(by_name: dict[str, tuple[Any, Any]], name: str, base: str, precision: str) -> shapes.Shape | str:
    own = by_name.get(_plain(name))
    config, beside = own or by_name.get(_plain(base)) or (None, None)
    if config is None:
        return "no config at hand"
    quantised = beside is not None or config.get("quantization_config") or config.get("compression_config")
    if precision != "bf16" and (own is None or not quantised):
        if precision not in QUANTIZED:
            return f"no config at hand of precision {precision}"
        config, beside = {**config, "quantization_config": QUANTIZED[precision]}, None
    found = read(config, beside)
    if isinstance(found, NotUnderstood):
        return f"not understood: {found.key}"
    named = config.get("architectures") or [""]
    return shapes.of(found, named[0])


def _pair(pair: Pair, shape: shapes.Shape | str, profile: dict[str, Any] | None) -> Pair:
    kind = PROFILES.get(pair.hardware) or accelerators.named(pair.hardware)
    made = {**pair.__dict__}
    if isinstance(shape, str):
        return Pair(**{**made, "found": shape})
    if kind is None or profile is None or (one := accelerators.every()[kind]).visible_gib is None:
        return Pair(**{**made, "found": f"no device {pair.hardware}"})
    if not pair.claimed_gb:
        return pair
    count, each_gb = profile["gpu_count"], profile["vram_gb"] / profile["gpu_count"]
    devices = next((n for n in (1, 2, 4, 8, 16) if n * each_gb >= pair.claimed_gb), 16)
    if devices > count:
        return Pair(**{**made, "found": "claimed for several hosts"})
    deployment = Deployment.model_validate(
        {
            "name": "recipe",
            "title": pair.model,
            "backend": "vllm",
            "hardware": f"{devices}x{kind}",
            "max_model_len": min(8192, shape.rope_positions or 8192),
            "model": {"name": pair.model},
            "flags": {"tensor-parallel-size": devices, "max-num-seqs": 256},
        }
    )
    if why := Vllm().unmodelled(deployment, shape):
        return Pair(**{**made, "found": f"refused: {why.partition('modelled: ')[2] or why}"})
    found = Vllm().predict(deployment, shape, one.visible_gib * GiB)
    weights = next((term.size_bytes for term in found.terms if term.name == "weights"), 0.0) if found else 0.0
    return Pair(**{**made, "found": found or "nothing predicted", "weights_gb": weights * devices / 1e9})


def page(recipes: Path, configurator: Path) -> str:
    """The page."""
    started = time.perf_counter()
    configs = shipped(configurator)
    read_ones = {name: read(*each) for name, each in configs.items()}
    found = list(pairs(recipes, configs))
    took_s = time.perf_counter() - started
    print(f"{len(found)} pairs in {took_s:.1f} s", file=sys.stderr)
    verdicts = Counter(
        pair.verdict.partition(":")[0] if pair.verdict.startswith("disagrees") else pair.verdict for pair in found
    )
    understood = [name for name, each in read_ones.items() if isinstance(each, ModelShape)]
    refused = {name: each for name, each in read_ones.items() if isinstance(each, NotUnderstood)}
    judged = [pair for pair in found if not isinstance(pair.found, str)]
    return "\n".join(
        (
            "# vLLM's recipes and AIConfigurator's configs beside the plan",
            "",
            "Made by `benchmarks/recipes.py`, which says what is asked. Of the recipes' pairs of variant and hardware,",
            f"{len(found)} in all, {len(judged)} could be planned; the others have no config at hand, or are refused by name.",
            "",
            "| what the plan says | pairs |",
            "| --- | --- |",
            *(f"| {name} | {count} |" for name, count in verdicts.most_common()),
            "",
            "## Where the claim and the plan disagree, or the plan is in doubt",
            "",
            "| model | variant | hardware | claimed GB | weights here, all devices, GB | plan |",
            "| --- | --- | --- | --- | --- | --- |",
            *(_row(pair) for pair in judged if pair.verdict != "agrees"),
            "",
            "## AIConfigurator's configs",
            "",
            f"{len(configs)} config.json files, {len(understood)} understood, {len(refused)} refused by key:",
            "",
            *(f"- {name}: {each.key}" for name, each in refused.items()),
            "",
        )
    )


def _row(pair: Pair) -> str:
    return f"| {pair.model} | {pair.variant} | {pair.hardware} | {pair.claimed_gb:.0f} | {pair.weights_gb:.0f} | {pair.verdict} |"


if __name__ == "__main__":
    sys.stdout.write(page(Path(sys.argv[1]), Path(sys.argv[2])))
