"""
The predicted KV pool beside llm-d-planner's, on the boots that its pull request 205 published (vLLM 0.19.0, H100 80 GB).

    git clone https://github.com/llm-d-incubation/llm-d-planner && git -C llm-d-planner fetch origin pull/205/head
    python benchmarks/planner.py llm-d-planner > docs/results/planner/llm-d-planner.md

Their runs and their own predictions are read from commit 3c876c8; of both, only what the page shows is in this repository.
"""

import csv
import io
import json
import subprocess
import sys
import tomllib
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import mean, median
from typing import Any

from pytest_longctx.backends.vllm import Vllm
from pytest_longctx.deployments import shape as shapes
from pytest_longctx.deployments.deployment import Deployment
from pytest_longctx.shapes import ModelShape, read
from pytest_longctx.units import GiB

COMMIT = "3c876c8"
RUNS = "accuracy/results/v0.19.0/runs/"
PREDICTED = "accuracy/results/v0.19.0/results_predicted.csv"
HERE = Path(__file__).parent
DEVICE_BYTES = 79.19 * GiB
"""As every log of these boots says."""

_CHANNEL = {"strategy": "channel", "symmetric": True, "num_bits": 8}
QUANTIZATIONS: dict[str, dict[str, Any]] = {
    "channel-fp8": {
        "quant_method": "compressed-tensors",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": {**_CHANNEL, "type": "float"}}},
    },
    "channel-int8": {
        "quant_method": "compressed-tensors",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": {**_CHANNEL, "type": "int"}}},
    },
    "gptq-int4": {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False},
    "mxfp4": {
        "quant_method": "mxfp4",
        "modules_to_not_convert": [
            "model.layers.*.self_attn",
            "model.layers.*.mlp.router",
            "model.embed_tokens",
            "lm_head",
        ],
    },
}


@dataclass(frozen=True)
class Boot:
    """One boot: what was logged, what they predict, and what is predicted here, in GiB and tokens."""

    name: str
    kv_gib: float
    kv_tokens: int
    theirs_gib: float | None
    ours_gib: float
    ours_tokens: int
    outcome: str

    @property
    def error(self) -> float:
        """Of the pool, relative."""
        return self.ours_gib / self.kv_gib - 1

    @property
    def token_error(self) -> float:
        """Of the tokens it holds, relative."""
        return self.ours_tokens / self.kv_tokens - 1

    @property
    def their_error(self) -> float | None:
        """Of their pool, relative."""
        return None if self.theirs_gib is None else self.theirs_gib / self.kv_gib - 1


def show(repository: Path, path: str) -> str:
    """The text of a file of their commit."""
    command = ("git", "-C", str(repository), "show", f"{COMMIT}:{path}")
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@cache
def _tables() -> tuple[dict[str, Any], dict[str, Any]]:
    known = json.loads((HERE.parent / "tests/data/shapes/models.json").read_text(encoding="utf-8"))
    return known, tomllib.loads((HERE / "planner-models.toml").read_text(encoding="utf-8"))


def config_of(model: str) -> dict[str, Any]:
    """The config.json of *model*."""
    known, named = _tables()
    facts = dict(named[model])
    base, quantization = facts.pop("base", None), facts.pop("quantization", None)
    facts.pop("tower", None)
    text = facts.pop("text", None)
    under = {} if base is None else known[base]["config"] if base in known else named[f"base:{base}"]
    asked = {"quantization_config": QUANTIZATIONS[quantization]} if quantization else {}
    laid = {"text_config": {**under["text_config"], **text}} if text else {}
    return {**under, **facts, **laid, **asked}


def shape_of(model: str, quantization: str | None = None) -> shapes.Shape:
    """Its shape; of a tower that its config here does not have, the published number of parameters."""
    found = read(config_of(model) | ({"quantization_config": {"quant_method": quantization}} if quantization else {}))
    if not isinstance(found, ModelShape):
        raise SystemExit(f"{model}: {found}")
    tower = _tables()[1][model].get("tower")
    return shapes.of(replace(found, vision_parameters=int(tower)) if tower else found)


def deployment_of(run: dict[str, Any]) -> Deployment:
    """The boot's command, as a deployment. All of them have --no-enable-prefix-caching."""
    asked = run["vllm_args"]
    flags: dict[str, Any] = {
        "tensor-parallel-size": asked["tensor_parallel_size"],
        "pipeline-parallel-size": asked["pipeline_parallel_size"],
        "gpu-memory-utilization": asked["gpu_memory_utilization"],
        "kv-cache-dtype": asked["kv_cache_dtype"],
        "enable-prefix-caching": False,
    }
    if asked["dtype"] != "auto":
        flags["dtype"] = asked["dtype"]
    bits = 32 if asked["dtype"] == "float32" else 16
    return Deployment.model_validate(
        {
            "name": "boot",
            "title": run["model"],
            "backend": "vllm",
            "hardware": f"{asked['tensor_parallel_size'] * asked['pipeline_parallel_size']}xH100",
            "version": run.get("vllm_version") or "==0.19.0",
            "max_model_len": asked["max_model_len"],
            "model": {"name": run["model"], "weight_bits": bits},
            "flags": flags,
        }
    )


def their_key(run: dict[str, Any]) -> tuple[str, ...]:
    """By what their table names a run."""
    asked = run["vllm_args"]
    parts = ("tensor_parallel_size", "pipeline_parallel_size", "max_model_len")
    rest = (str(asked["dtype"] == "float32"), str(asked["quantization"] == "fp8"), asked["kv_cache_dtype"])
    return (run["model"], *(str(asked[part]) for part in parts), *rest)


def boots(repository: Path) -> list[Boot]:
    """Every boot of the table that came up."""
    listed = subprocess.run(
        ("git", "-C", str(repository), "ls-tree", "--name-only", COMMIT, RUNS),
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    theirs = {}
    for row in csv.DictReader(io.StringIO(show(repository, PREDICTED))):
        if not row["pred_kv_cache_memory_gib"]:
            continue
        rest = (str(row["dtype"] == "torch.float32"), str(row["quantization"] == "fp8"), row["kv_cache_dtype"])
        theirs[(row["model"], row["tp"], row["pp"], row["max_model_len"], *rest)] = float(
            row["pred_kv_cache_memory_gib"]
        )
    made = []
    for path in listed:
        run = json.loads(show(repository, path))
        if not run.get("kv_cache_memory_gib") or not run.get("kv_cache_tokens"):
            continue
        one, asked = deployment_of(run), run["vllm_args"]
        shape = shape_of(run["model"], asked["quantization"])
        found = Vllm().predict(one, shape, DEVICE_BYTES)
        assert found is not None, run["model"]
        pool = next(term.size_bytes for term in found.terms if term.name == "KV pool")
        key = their_key(run)
        words = {
            k: v
            for k, v in asked.items()
            if v not in (None, "auto") and k not in ("data_parallel_size", "gpu_memory_utilization")
        }
        name = run["model"] + "".join(f" {_short(k)}{v}" for k, v in words.items() if v != 1)
        tokens = int((found.concurrency or 0) * asked["max_model_len"])
        # A pipeline is as long as its shortest stage: the log's figure is of the first one.
        made.append(
            Boot(
                name,
                run["kv_cache_memory_gib"],
                run["kv_cache_tokens"],
                theirs.get(key),
                pool / GiB,
                tokens,
                found.outcome,
            )
        )
    return made


def _short(key: str) -> str:
    return {"tensor_parallel_size": "tp", "pipeline_parallel_size": "pp", "max_model_len": "len "}.get(key, "")


def page(found: list[Boot]) -> str:
    """The page."""
    ours, tokens = [boot.error for boot in found], [boot.token_error for boot in found]
    both = [boot for boot in found if boot.their_error is not None]
    theirs = [boot.their_error or 0.0 for boot in both]
    return HEAD.format(commit=COMMIT, count=len(found)) + "\n".join(
        (
            _summary("KV pool, here", ours),
            _summary("KV pool, llm-d-planner", theirs),
            _summary("KV tokens, here", tokens),
            "",
            "| boot | logged GiB | here | theirs | logged tokens | here | outcome here |",
            "| --- | --- | --- | --- | --- | --- | --- |",
            *(_row(boot) for boot in sorted(found, key=lambda each: -abs(each.error))),
            "",
        )
    )


HEAD = """# The KV pool beside llm-d-planner's, on its own boots

Made by `benchmarks/planner.py`. Boots: vLLM 0.19.0 on H100 80 GB, published in llm-d-planner's pull request 205 (commit
`{commit}`), {count} runs; a percentage under *theirs* is the error of what its own table predicts there. The 0.34 % that it
publishes is a mean of signed errors (its report: +0.34 %, mean absolute 6.62 %, 52 runs); both means are below.

The terms of `backends/vllm/overhead.py` are counted from vLLM's sources and were checked on these very boots, so this is no blind
test of them. A pipeline's log gives the memory of its first stage, the prediction that of its last, which has the fewest blocks.

| | boots | mean error | mean absolute error | median absolute | worst |
| --- | --- | --- | --- | --- | --- |
"""


def _row(boot: Boot) -> str:
    their = "" if boot.their_error is None else f"{boot.their_error:+.2%}"
    pool, tokens = f"{boot.kv_gib:.2f} | {boot.error:+.2%}", f"{boot.kv_tokens:,} | {boot.token_error:+.2%}"
    return f"| {boot.name} | {pool} | {their} | {tokens} | {boot.outcome} |"


def _summary(name: str, errors: list[float]) -> str:
    sizes = [abs(error) for error in errors]
    middle = f"{mean(errors):+.2%} | {mean(sizes):.2%} | {median(sizes):.2%}"
    return f"| {name} | {len(errors)} | {middle} | {max(errors, key=abs):+.2%} |"


if __name__ == "__main__":
    sys.stdout.write(page(boots(Path(sys.argv[1]))))
