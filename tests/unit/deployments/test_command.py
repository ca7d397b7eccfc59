"""Starts of engines, as people type them."""

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_longctx.deployments import command
from pytest_longctx.deployments.script import split
from pytest_longctx.errors import UsageError


@pytest.mark.parametrize(
    ("line", "engine", "words"),
    [
        ("vllm serve M -tp 8", "vllm", "M -tp 8"),
        ("python -m vllm.entrypoints.openai.api_server --model M", "vllm", "--model M"),
        ("/opt/venv/bin/python3 -m sglang.launch_server --model-path M", "sglang", "--model-path M"),
        ("sglang serve --model-path M", "sglang", "--model-path M"),
        ("A=1 B='x y' nohup vllm serve M > log 2>&1 &", "vllm", "M"),
        ("numactl --membind 0 vllm serve M", "vllm", "M"),
        ("bash -lc 'cd /x && export N=4; exec vllm serve M -tp $N'", "vllm", "M -tp 4"),
        ("vllm serve M --max-model-len ${LEN:-32k}", "vllm", "M --max-model-len 32k"),
        ("docker run --gpus all -it --rm -p 8000:8000 vllm/vllm-openai:latest --model M", "vllm", "--model M"),
        ("docker run vllm/vllm-openai M", "vllm", "M"),
        ("docker run --entrypoint vllm vllm/vllm-openai serve M", "vllm", "M"),
        ("docker run --entrypoint=/bin/bash vllm/vllm-openai -c 'vllm serve M'", "vllm", "M"),
        ("sudo podman run lmsysorg/sglang:v1 python3 -m sglang.launch_server --tp 2", "sglang", "--tp 2"),
        ("docker container run reg:5000/x/vllm-openai@sha256:0a vllm serve M", "vllm", "M"),
    ],
)
def test_the_words_of_the_engine_are_found(line, engine, words):
    found = command.of_words(shlex.split(line))
    assert (found.engine, list(found.words)) == (engine, words.split())


@pytest.mark.parametrize(
    "line", ["ls", "docker run nginx", "docker run", "python -m http.server", "vllm bench serve", ""]
)
def test_what_starts_no_engine_is_said(line):
    with pytest.raises(UsageError, match="the command: it starts no known engine"):
        command.of_words(shlex.split(line))


def test_options_of_docker_run():
    found = command.of_words(
        shlex.split(
            "docker run -d --gpus '\"device=0,1\"' --shm-size=16g -m 128g -eA=1 -e B=2 --env C=3 -v /m:/m vllm/vllm-openai:v0.25.1 M"
        )
    )
    assert (found.gpus, found.shm_bytes, found.memory_bytes) == (2, 16 * 2**30, 128 * 2**30)
    assert dict(found.env) == {"A": "1", "B": "2", "C": "3"}
    assert (found.version, found.in_container) == ("0.25.1", True)
    assert command.of_words(shlex.split("docker run --ipc=host vllm/vllm-openai M")).shm_bytes == float("inf")


@pytest.mark.parametrize(
    ("image", "version"),
    [
        ("vllm/vllm-openai:v0.25.1", "0.25.1"),
        ("lmsysorg/sglang:v0.5.6.post2-cu126", "0.5.6.post2"),
        ("vllm/vllm-openai:latest", None),
        ("reg:5000/vllm-openai", None),
        ("vllm/vllm-openai@sha256:0123", None),
    ],
)
def test_the_version_of_an_image(image, version):
    assert command.Start("vllm", (), image=image).version == version


@given(
    st.lists(
        st.sampled_from(["vllm", "serve", "docker", "run", "bash", "-c", "-m", "&&", ">", "-e", "A=$B", "'", "--gpus"])
    )
)
def test_any_words_are_a_start_or_a_refusal(words):
    found = command.find(words)
    if found is None:
        with pytest.raises(UsageError, match="it starts no known engine"):
            command.of_words(words)
    else:
        assert found.engine in ("vllm", "sglang")


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ('ARGS=(--tp 4 --max-model-len 16k)\nvllm serve M "${ARGS[@]}"', "M --tp 4 --max-model-len 16k"),
        ("args=(\n  -tp 4  # of 8\n  --x '{\"a\": 1}'\n)\nvllm serve M ${args[*]}", "M -tp 4 --x '{\"a\": 1}'"),
        ('A=(-tp 2)\nA+=(-pp 2)\nvllm serve M "${A[@]}"', "M -tp 2 -pp 2"),
        ('declare -a A=()\nvllm serve M "${A[@]}"', "M"),
        ('vllm serve M "${A[@]}"', "M '${A[@]}'"),
        ("vllm serve M --max-model-len $((32 * 1024))", "M --max-model-len 32768"),
        ("N=4; vllm serve M -tp $((N*2)) -pp $(( ($N + 3) / 2 - 2))", "M -tp 8 -pp 1"),
        ("vllm serve M -tp $((N*2))", "M -tp '$((N*2))'"),
        ("vllm serve M -tp $((1/0))", "M -tp '$((1/0))'"),
        ("root@node1:~# vllm serve M", "M"),
        ("(venv) me@gpu-01:/srv/llm$ vllm serve M", "M"),
        ("[me@gpu ~]$ vllm serve M", "M"),
        ("vllm serve M \\\n  -tp 4", "M -tp 4"),
        ("vllm serve M \\\r\n  -tp 4", "M -tp 4"),
        ("vllm serve M \\ \n  -tp 4", "M ' '"),
        ("vllm serve M `\n  -tp 4 `\r\n  -pp 2", "M -tp 4 -pp 2"),
        ("vllm serve M ^\n  -tp 4", "M -tp 4"),
        ("X=`date`\nvllm serve M `\n  -tp 4", "M '`'"),
        ('["vllm", "serve", "M", "-tp", "4"]', "M -tp 4"),
        ('["sh", "-c", "vllm serve M -tp 4"]', "M -tp 4"),
        ("[ -d /models ] && vllm serve M", "M"),
        ("kubectl run v --image=vllm/vllm-openai:v0.25.1 -- M -tp 4", "M -tp 4"),
        ("oc run v --image vllm/vllm-openai --command -- vllm serve M -tp 4", "M -tp 4"),
        ("podman run registry.redhat.io/rhaiis/vllm-cuda-rhel9:3.2.2 --model M", "--model M"),
        ("docker run quay.io/x/odh-vllm-rocm-rhel9 --model M", "--model M"),
    ],
)
def test_a_pasted_script_is_read_as_bash_reads_it(script, words):
    assert command.of_words(split(script)).words == tuple(shlex.split(words))


@given(st.text("()$[]{}@*=+-/ \n\\#A1'\"", max_size=60))
def test_any_script_is_split(script):
    assert command.find([*split(script), ";", "vllm", "serve", "M"]) is not None or ";" not in script


@pytest.mark.parametrize(
    "words", ["kubectl run v", "kubectl run v --image=nginx -- -tp 4", "kubectl get pods", "oc run v --image=nginx"]
)
def test_a_pod_of_another_image_starts_no_engine(words):
    assert command.find(words.split()) is None
