import json
import re
import sys
from pathlib import Path

import pytest

from pytest_longctx import cli, paths
from pytest_longctx.backends.vllm import Vllm
from pytest_longctx.deployments.deployment import load_all
from pytest_longctx.toml import in_range
from tests.unit import factories


def printed(capsys, *words):
    assert cli.main(["render", *words]) == 0
    return capsys.readouterr().out


def test_manifests_are_printed_for_a_team_to_keep(capsys):
    yaml = pytest.importorskip("yaml")
    text = printed(capsys, "scout-vllm-2m", "--namespace=serving")
    pod, service = yaml.safe_load_all(text)
    assert (pod["kind"], service["kind"]) == ("Pod", "Service")
    assert {each["metadata"]["namespace"] for each in (pod, service)} == {"serving"}
    heads = [line for line in text.splitlines() if line.startswith("#")]
    assert (
        heads[-1]
        == '# kubectl create secret generic longctx-scout-vllm-2m-key --from-literal=api-key="$LONGCTX_API_KEY"'
    )
    assert "&id" not in text


def test_without_a_yaml_library_they_are_json(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    made = json.loads(printed(capsys, "scout-vllm-2m"))
    assert [each["kind"] for each in made["items"]] == ["Pod", "Service"]
    assert "namespace" not in made["items"][0]["metadata"]


def test_the_docker_line_takes_secrets_from_the_shell(capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    text = printed(capsys, "scout-vllm-2m", "--launcher=docker")
    assert text.startswith("docker run --rm --init --publish 127.0.0.1:8000:8000 ")
    assert "--env HF_TOKEN --" in text
    assert "hf_secret" not in text


def test_a_docker_line_may_be_for_another_machine():
    one = factories.deployment(image="a/b:1", hardware="8xMI300X")
    assert "--device /dev/kfd --device /dev/dri" in cli.docker(Vllm(), one)


def test_the_command_line_of_a_process(capsys):
    text = printed(capsys, "scout-vllm-2m", "--launcher=process")
    assert text.startswith("VLLM_NO_USAGE_STATS=1 VLLM_DO_NOT_TRACK=1 python3 -m vllm.entrypoints.openai.api_server ")
    assert text.endswith("--host 127.0.0.1\n")


def test_nothing_is_made_for_a_model_that_would_be(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("LONGCTX_HOME", str(tmp_path))
    assert str(tmp_path / "models" / "tiny-llama4") in printed(capsys, "cpu-tiny-64k", "--launcher=process")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["scout-vlm-2m"], "did you mean"),
        (["/no/such.toml"], "file not found"),
        (["miniature"], "names no container image"),
    ],
)
def test_what_cannot_be_rendered_is_said(capsys, words, message):
    assert cli.main(["render", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_file_is_read_where_it_is(capsys, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'name = "mine"\ntitle = "t"\nbackend = "sglang"\nimage = "a/b:1"\n[model]\nname = "m"\nid = "a/b"\n',
        encoding="utf-8",
    )
    assert "longctx-mine" in printed(capsys, str(path))


SHIPPED = load_all((paths.suites() / "deployments",))
IN_CONTAINERS = [name for name, one in SHIPPED.items() if not one.backend.startswith(("miniature", "transformers"))]
"""Of a miniature and of a model under transformers no image is published: they run where the tests run."""


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_deployment_is_rendered_as_a_process(capsys, name):
    assert "python3 " in printed(capsys, name, "--launcher=process")


@pytest.mark.parametrize("name", IN_CONTAINERS)
def test_every_shipped_deployment_is_rendered_for_the_launchers_that_its_hardware_allows(capsys, name):
    one = SHIPPED[name]
    needs = one.needs
    assert f"{one.image} " in printed(capsys, name, "--launcher=docker")
    text = printed(capsys, name)
    assert f"image: {one.image}" in text
    resource = {"MI300X": "amd.com/gpu", "trn2": "aws.amazon.com/neuron", "cpu": ""}.get(needs.kind, "nvidia.com/gpu")
    per_node = needs.count // (2 if needs.count > 8 and needs.kind == "MI300X" else 1)
    assert not resource or f"{resource}: '{per_node}'" in text


@pytest.mark.parametrize("name", IN_CONTAINERS)
def test_the_image_of_a_shipped_deployment_is_pinned_to_a_version_that_it_is_about(name):
    one = SHIPPED[name]
    found = re.search(r":v?(\d+\.\d+\.\d+(?:\.post\d)?)", str(one.image))
    assert found is not None
    assert one.version is None or in_range(found[1], one.version)


def test_a_model_that_is_downloaded_at_each_start_is_said_to_be(capsys):
    assert "# each Pod downloads meta-llama/Llama-4-Scout-17B-16E-Instruct at each start" in printed(
        capsys, "scout-vllm-2m"
    )
    both = printed(capsys, "mi300x-128k-ray")
    assert "at each start" not in both
    assert both.count("claimName: model-cache") == 2


EXAMPLES = Path(__file__).parents[3] / "docs/examples"


def test_an_example_is_rendered_with_the_plugin_that_makes_its_backend(capsys, monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    words = ("cpu-tiny-pd", "--launcher=process", f"--data={EXAMPLES}")
    assert "vllm_router.launch_router" in printed(capsys, "-p", "disaggregated", *words)
    assert cli.main(["render", *words]) == 2
    assert "unknown backend 'vllm-pd'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("module", "message"),
    [("no_such_module", "add the folder of the module to PYTHONPATH"), ("json", "the module has no function")],
)
def test_a_plugin_that_makes_no_backend_is_said_to(capsys, module, message):
    assert cli.main(["render", "scout-vllm-2m", "-p", module]) == 2
    assert f"-p {module}: " in (said := capsys.readouterr().err)
    assert message in said


def test_a_gpu_of_any_kind_is_asked_for_as_the_backend_needs_it(capsys):
    assert "--device /dev/kfd" in printed(capsys, "gpu-probe-vllm-rocm", "--launcher=docker")
    assert "--gpus 1" in printed(capsys, "gpu-probe-vllm", "--launcher=docker")
    assert "amd.com/gpu: '1'" in printed(capsys, "gpu-probe-vllm-rocm")
