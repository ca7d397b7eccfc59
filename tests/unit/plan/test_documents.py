"""Starts of the source documents whose fault is the memory of the host, planned as typed."""

import json

import pytest

from pytest_longctx import cli

SCOUT = "meta-llama/Llama-4-Scout-17B-16E-Instruct"
SGLANG = f"python3 -m sglang.launch_server --model-path {SCOUT} --context-length 2097152 --mem-fraction-static 0.80 --disable-cuda-graph"


def planned(capsys, *words):
    cli.main(["plan", "--hardware", "8xH200", *words])
    return capsys.readouterr().out


def test_the_published_pod_has_too_little_memory_for_the_tables_of_eight_workers(capsys, tmp_path):
    """It is limited to 128Gi; the tables take 151.20 GiB and the workers 17.60 GiB."""
    engine = {
        "name": "vllm-server",
        "image": "vllm/vllm-openai:v0.12.0",
        "command": ["python3", "-m", "vllm.entrypoints.openai.api_server"],
        "args": [
            "--model",
            SCOUT,
            "--tensor-parallel-size",
            "8",
            "--max-model-len",
            "2097152",
            "--gpu-memory-utilization",
            "0.9",
        ],
        "resources": {"limits": {"nvidia.com/gpu": 8, "memory": "128Gi"}},
    }
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [engine]}}
    path = tmp_path / "pod.json"
    path.write_text(json.dumps(pod), encoding="utf-8")
    said = planned(capsys, str(path))
    assert said.startswith("dies, phase load (host-oom): tables of 8 workers 151.20 GiB of host memory")
    assert "host memory, or a limit of it, of 168.80 GiB and more" in said


def test_a_hierarchical_cache_at_ratio_2_takes_twice_the_pools_of_all_gpus(capsys):
    """81.2 GiB of pool on each of eight GPUs; the document counts those of one."""
    words = [*SGLANG.split(), "--tp", "8", "--enable-hierarchical-cache", "--hicache-ratio", "2.0"]
    said = planned(capsys, "--host-memory", "512", "--engine-version", "0.5.6.post2", "--", *words)
    assert "hierarchical cache of 8 ranks 1299.01 GiB of host memory is requested" in said


@pytest.mark.parametrize("version", ["0.5.6", "0.5.6.post2", "0.5.16", "0.5.23"])
@pytest.mark.parametrize("spelling", ["--tp", "--tp-size", "--tensor-parallel-size"])
def test_every_spelling_of_a_parallel_size_is_the_same_in_every_version(capsys, version, spelling):
    """In 0.5.6 another of them is the main one."""
    said = planned(capsys, "--engine-version", version, "--", *SGLANG.split(), spelling, "8")
    assert "on 8xH200, tensor parallel 8; sglang" in said
    assert "weights 30.09 GiB" in said
