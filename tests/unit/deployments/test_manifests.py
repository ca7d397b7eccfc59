"""Starts of engines in compose files, Kubernetes objects and recipes."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_longctx.deployments import manifests, recipes
from pytest_longctx.deployments.hardware import Hardware
from pytest_longctx.errors import UsageError

COMPOSE = """
services:
  chat:
    image: vllm/vllm-openai:v0.25.1
    command: ["--model", "M", "--tensor-parallel-size=2"]
    environment: [HF_TOKEN=abc, VLLM_ALLOW_LONG_MAX_MODEL_LEN=1]
    ipc: host
    deploy:
      resources:
        limits: {memory: 64g}
        reservations: {devices: [{driver: nvidia, count: 2, capabilities: [gpu]}]}
  other:
    image: lmsysorg/sglang:v0.5.16-cu126
    entrypoint: python3 -m sglang.launch_server
    command: >
      --model-path M --tp 1
      --context-length ${LEN:-32k}
    shm_size: 32gb
    environment: {A: true, B: null}
  proxy: {image: nginx}
"""
POD = {
    "nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"},
    "containers": [
        {"name": "side", "image": "busybox"},
        {
            "name": "main",
            "image": "vllm/vllm-openai:latest",
            "args": ["--model", "$(MODEL)", "-tp", "2"],
            "env": [{"name": "MODEL", "value": "M"}, {"name": "HF_TOKEN", "valueFrom": {}}],
            "resources": {"limits": {"nvidia.com/gpu": "4", "memory": "128Gi"}},
            "volumeMounts": [{"mountPath": "/dev/shm", "name": "shm"}],
        },
    ],
    "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"}}],
}


def written(tmp_path, text):
    path = tmp_path / "file.yaml"
    path.write_text(text, encoding="utf-8")
    return manifests.starts(manifests.read(path), "file")


def test_every_service_of_a_compose_file_that_starts_an_engine(tmp_path):
    chat, other = written(tmp_path, COMPOSE)
    assert (chat.engine, chat.words, chat.gpus) == ("vllm", ("--model", "M", "--tensor-parallel-size=2"), 2)
    assert (chat.shm_bytes, chat.memory_bytes) == (float("inf"), 64 * 2**30)
    assert chat.env["VLLM_ALLOW_LONG_MAX_MODEL_LEN"] == "1"
    assert (other.engine, other.words[-1], other.shm_bytes) == ("sglang", "32k", 32 * 2**30)
    assert (other.where, dict(other.env)) == ("file, service other", {"A": "true"})


@pytest.mark.parametrize(
    "wrapped",
    [
        {"kind": "Pod", "metadata": {"name": "x"}, "spec": POD},
        {"kind": "Deployment", "metadata": {"name": "x"}, "spec": {"replicas": 3, "template": {"spec": POD}}},
        {"kind": "StatefulSet", "metadata": {"name": "x"}, "spec": {"template": {"spec": POD}}},
        {"kind": "List", "items": [{"kind": "Job", "metadata": {"name": "x"}, "spec": {"template": {"spec": POD}}}]},
    ],
    ids=lambda one: one["kind"],
)
def test_the_pod_in_any_object(wrapped, tmp_path):
    (found,) = written(tmp_path, json.dumps(wrapped))
    assert (found.words, found.gpus, found.nodes) == (("--model", "M", "-tp", "2"), 4, 1)
    assert (found.memory_bytes, found.shm_bytes) == (128 * 2**30, 16 * 2**30)
    assert found.kind == "NVIDIA-H100-80GB-HBM3"
    assert found.where.endswith(" x")


def test_a_leader_stands_for_its_group(tmp_path):
    worker = {"containers": [{"image": "vllm/vllm-openai:v0.27.1", "command": ["sh", "-c", "join.sh"]}]}
    group = {"size": 2, "leaderTemplate": {"spec": POD}, "workerTemplate": {"spec": worker}}
    (found,) = written(tmp_path, json.dumps({"kind": "LeaderWorkerSet", "spec": {"leaderWorkerTemplate": group}}))
    assert (found.nodes, found.gpus) == (2, 4)


def test_sizes_of_kubernetes_are_binary_with_an_i_alone():
    sizes = [manifests._quantity(text) for text in ("1Gi", "1G", "1024", "1.5Ki", "much")]
    assert sizes == [2**30, 10**9, 1024, 1536, None]


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"\xff\xfe", "must be a text file"), (b"a: [", "not valid YAML"), (b"\t{", "not valid YAML")],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, content, said):
    path = tmp_path / "file.yaml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=f"file.yaml: {said}"):
        manifests.read(path)
    with pytest.raises(UsageError, match="No such file"):
        manifests.read(tmp_path / "none.yaml")


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *("services", "spec", "containers", "image", "command", "env", "resources", "limits", "volumes"),
                    *("kind", "items", "data", "envFrom", "configMapRef", "valueFrom", "configMapKeyRef", "name"),
                    *("run", "accelerators", "envs", "num_nodes"),
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(ANY)
def test_any_document_has_some_starts_or_none(document):
    assert isinstance(manifests.starts([document], "file"), list)
    assert manifests.form([document]) is None or isinstance(document, dict)


TASK = {
    "resources": {"accelerators": "H100:4"},
    "envs": {"M": "model"},
    "run": "vllm serve $M -tp $SKYPILOT_NUM_GPUS_PER_NODE",
}


@pytest.mark.parametrize(
    ("accelerators", "words", "gpus", "kind"),
    [
        ("H100:4", "model -tp 4", 4, "H100"),
        ({"A100-80GB": 8}, "model -tp 8", 8, "A100-80GB"),
        ("H200", "model -tp 1", 1, "H200"),
        (["H100:4", "H200:4"], "model -tp $SKYPILOT_NUM_GPUS_PER_NODE", None, None),
        ({"H100": 4, "H200": 2}, "model -tp $SKYPILOT_NUM_GPUS_PER_NODE", None, None),
        (None, "model -tp $SKYPILOT_NUM_GPUS_PER_NODE", None, None),
        ({}, "model -tp $SKYPILOT_NUM_GPUS_PER_NODE", None, None),
    ],
)
def test_a_task_of_skypilot_starts_what_its_script_starts(accelerators, words, gpus, kind):
    (start,) = manifests.starts([{**TASK, "resources": {"accelerators": accelerators}}], "task.yaml")
    assert (" ".join(start.words), start.gpus, start.kind, start.nodes) == (words, gpus, kind, 1)
    (two,) = manifests.starts([{**TASK, "num_nodes": 2}], "task.yaml")
    assert two.nodes == 2


def _pod(**box):
    return {
        "kind": "Pod",
        "spec": {"containers": [{"image": "vllm/vllm-openai", "args": ["M", "-tp", "$(TP)"], **box}]},
    }


@pytest.mark.parametrize(
    ("box", "count"),
    [
        ({"envFrom": [{"configMapRef": {"name": "sizes"}}]}, "2"),
        ({"env": [{"name": "TP", "valueFrom": {"configMapKeyRef": {"name": "sizes", "key": "TP"}}}]}, "2"),
        ({"envFrom": [{"configMapRef": {"name": "sizes"}}], "env": [{"name": "TP", "value": "8"}]}, "8"),
        ({"envFrom": [{"prefix": "X_", "configMapRef": {"name": "sizes"}}]}, "$(TP)"),
        ({"envFrom": [{"configMapRef": {"name": "others"}}]}, "$(TP)"),
        ({"env": [{"name": "TP", "valueFrom": {"secretKeyRef": {"name": "sizes", "key": "TP"}}}]}, "$(TP)"),
    ],
)
def test_variables_of_a_configmap_of_the_same_file_are_known(box, count):
    sizes = {"kind": "ConfigMap", "metadata": {"name": "sizes"}, "data": {"TP": "2"}}
    for documents in ([sizes, _pod(**box)], [_pod(**box), {"kind": "List", "items": [sizes]}]):
        (start,) = manifests.starts(documents, "file")
        assert start.words == ("M", "-tp", count)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"kind": "InferenceService"}, "KServe's InferenceService"),
        ({"servingEngineSpec": {}}, "values of vLLM's production stack"),
        ({"kind": "Service"}, None),
        ("vllm", None),
    ],
)
def test_a_file_that_a_platform_reads_by_its_own_rules_is_named(document, said):
    assert manifests.form([document]) == said


RECIPE = {
    "model": {
        "model_id": "M",
        "min_vllm_version": "0.10.0",
        "base_args": ["--trust-remote-code"],
        "base_env": {"A": 1},
    },
    "variants": {
        "default": {"precision": "bf16", "vram_minimum_gb": 564},
        "fp8": {"model_id": "M-FP8", "precision": "fp8", "tp": {"hopper": 4, "default": 2}, "extra_args": ["--x"]},
        "nvfp4": {"precision": "nvfp4", "vram_minimum_gb": 60},
    },
    "hardware_overrides": {
        "hopper": {"extra_args": ["--for-hopper"], "extra_env": {"B": "2"}},
        "amd": {"extra_args": ["--for-amd"]},
    },
}


def test_every_variant_of_a_recipe_on_the_hardware_that_is_asked_for():
    assert recipes.is_recipe(RECIPE)
    found = {start.words[0]: start for start in list(recipes.starts(RECIPE, Hardware("H200", 8), 141, "r"))[:2]}
    assert found["M"].words == ("M", "--tensor-parallel-size", "8", "--trust-remote-code", "--for-hopper")
    assert found["M-FP8"].words[2:] == ("4", "--trust-remote-code", "--x", "--for-hopper")
    assert dict(found["M"].env) == {"A": "1", "B": "2"}
    *_, small = recipes.starts(RECIPE, Hardware("MI300X", 8), 192, "r")
    assert small.words[1:] == ("--tensor-parallel-size", "1", "--trust-remote-code", "--for-amd")


def test_a_compose_file_is_no_recipe():
    others: list[object] = [{"services": {}}, [], None, {"model": 1, "variants": {}}]
    assert not any(recipes.is_recipe(each) for each in others)
