"""Backends of the docs: their files load, and their commands match the documentation of their engines."""

import importlib.util
import json
import re
import shlex
from pathlib import Path

import pytest

from pytest_longctx.deployments import deployment

DOCS = Path(__file__).parents[3] / "docs"
EXAMPLES = DOCS / "examples"
KNOWN = deployment.load_all((EXAMPLES / "deployments",))


def example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_shows_the_file_that_runs():
    shown = re.search(r"```python\n(.*?)```", (DOCS / "how-to/add-a-backend.md").read_text(), re.DOTALL)
    assert shown is not None
    assert shown[1] == (EXAMPLES / "llama_cpp.py").read_text()


@pytest.mark.parametrize("name", ["disaggregated", "llama_cpp", "trtllm"])
def test_a_backend_is_one_short_file(name):
    module = example(name)
    (known,) = module.pytest_longctx_names("backend")
    assert module.pytest_longctx_make_backend(known).name == known
    assert module.pytest_longctx_make_backend("other") is None
    assert (EXAMPLES / f"{name}.py").read_text().count("\n") < 80


def test_llama_server_is_started_as_it_documents():
    backend = example("llama_cpp").LlamaCpp()
    made = backend.recipe(KNOWN["llama-cpp-tiny"], "/m/tiny.gguf", 8000, key="k")
    assert made.argv == (
        *("llama-server", "--port", "8000", "--model", "/m/tiny.gguf", "--alias", "tiny-llama"),
        *("--ctx-size", "65536", "--metrics", "--no-ui", "--parallel", "1"),
        *("--host", "127.0.0.1", "--api-key", "k"),
    )


def test_what_llama_server_tells_of_itself_is_read():
    backend = example("llama_cpp").LlamaCpp()
    assert backend.limit_in({"id": "m", "meta": {"n_ctx": 4096, "n_ctx_train": 8192}}) == 4096
    assert backend.limit_in({"id": "m"}) is None
    assert backend.version_in({"build_info": "b11434-1a2b3c4"}) == "11434"
    assert backend.version_in({}) is None


def test_each_line_of_its_catalogue_is_found_and_no_other():
    known = example("llama_cpp").LlamaCpp().catalogue
    for row in (*known.signature, *known.refusal):
        assert re.search(row.regex, row.example)
        assert not re.search(row.regex, row.near_miss)


def test_trtllm_is_started_as_it_documents():
    made = example("trtllm").TensorRtLlm().recipe(KNOWN["trtllm-128k"], "m", 8000, "python3")
    assert made.argv[:11] == (
        *("python3", "-m", "tensorrt_llm.commands.serve", "m", "--port", "8000"),
        *("--served_model_name", "llama-3.3-70b", "--max_seq_len", "131072", "--tp_size"),
    )
    assert made.argv[-2:] == ("--host", "127.0.0.1")


def test_prefill_and_decode_are_two_servers_behind_a_router():
    backend = example("disaggregated").Disaggregated()
    shell, flag, line = backend.recipe(KNOWN["cpu-tiny-pd"], "/m", 8000, "python3").argv
    assert (shell, flag) == ("/bin/sh", "-c")
    *roles, router = (shlex.split(each) for each in line.split(" & "))
    ports = [one[one.index("--port") + 1] for one in roles]
    assert router[1:] == [
        *("python3", "-m", "vllm_router.launch_router", "--vllm-pd-disaggregation"),
        *("--prefill", f"http://127.0.0.1:{ports[0]}", "--decode", f"http://127.0.0.1:{ports[1]}"),
        *("--host", "127.0.0.1", "--port", "8000", "--prometheus-port", router[-1]),
    ]
    reported = [json.loads(one[one.index("--kv-transfer-config") + 1]) for one in roles]
    assert [each["kv_role"] for each in reported] == ["kv_producer", "kv_consumer"]
    assert len({one[0] for one in roles} | set(ports) | {router[-1], "8000"}) == 6


def test_each_role_has_devices_of_its_own():
    one = KNOWN["cpu-tiny-pd"].model_copy(update={"hardware": "4xH200", "flags": {"tensor-parallel-size": 2}})
    line = example("disaggregated").Disaggregated().recipe(one, "/m", 8000, "python3").argv[2]
    roles = [shlex.split(each) for each in line.split(" & ")[:2]]
    assert [each[each.index("--device-ids") + 1] for each in roles] == ["0,1", "2,3"]
