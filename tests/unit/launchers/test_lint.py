import json
from dataclasses import replace

import pytest

from pytest_longctx import paths
from pytest_longctx.backends import Backend
from pytest_longctx.deployments import deployment
from pytest_longctx.errors import TableError
from pytest_longctx.findings.ask import Ask
from pytest_longctx.findings.finding import load_all
from pytest_longctx.launchers import lint as launchers_lint
from pytest_longctx.launchers.start_command import StartCommand, of_command, of_deployment, of_pod
from pytest_longctx.registry import BACKENDS, load
from tests.unit import factories

SOUND = (
    "docker run -d --rm --gpus all --shm-size 10g -p 127.0.0.1:8000:8000 -v /models:/models "
    "-e HF_HOME=/models --entrypoint python3 vllm/vllm-openai:v0.12.0 -m vllm.entrypoints.openai.api_server "
    "--model meta-llama/Llama --tensor-parallel-size 8"
)


def found(text, boot_s=None):
    return [name for name, _ in launchers_lint.lint(of_command(text, boot_s))]


def test_a_sound_start_is_left_alone():
    assert found(SOUND) == []
    assert launchers_lint.observe(Ask(command=SOUND), "open-to-all").outcome == "is sound"


@pytest.mark.parametrize(
    ("old", "new", "lint"),
    [
        (
            "--entrypoint python3 vllm/vllm-openai:v0.12.0 -m",
            "vllm/vllm-openai:v0.12.0 python3 -m",
            "double-entrypoint",
        ),
        ("--model meta-llama/Llama", "--model /models/models--meta-llama--Llama", "cache-root-as-model"),
        ("--model meta-llama/Llama", "--model /models", "cache-root-as-model"),
        ("--model meta-llama/Llama", "--model /models/models--a--b/snapshots/0123", "snapshot-as-model"),
        ("/models:/models ", "/models:/models:ro ", "read-only-cache"),
        ("/models:/models ", "/models:/models:ro -e HF_HUB_OFFLINE=1 ", None),
        ("/models:/models ", "/elsewhere:/elsewhere:ro ", None),
        ("-v /models:/models", "--mount type=bind,source=/models,target=/models,readonly", "read-only-cache"),
        ("-v /models:/models", "--mount type=bind,src=/models,dst=/models,ro=true", "read-only-cache"),
        ("-v /models:/models", "--mount type=bind,source=/models,destination=/models", None),
        ("--shm-size 10g", "", "small-shm"),
        ("--shm-size 10g", "--ipc=host", None),
        ("docker run -d", "docker run -it", "needs-a-person"),
        ("docker run", "read -p 'Remove it?' answer\ndocker run", "needs-a-person"),
        ("docker run", "docker start vllm || docker run", "reused-container"),
        ("-p 127.0.0.1:8000:8000", "-p 8000:8000", "open-to-all"),
        ("-p 127.0.0.1:8000:8000", "--network host", "open-to-all"),
        ("-p 127.0.0.1:8000:8000", "-P", "open-to-all"),
        ("docker run -d", "docker run -dP", "open-to-all"),
        ("docker run -d", "docker run -d --publish-all", "open-to-all"),
        ("-p 127.0.0.1:8000:8000", "-p 0.0.0.0:8000:8000", "open-to-all"),
        ("-p 127.0.0.1:8000:8000", "-p 8000:8000 -e VLLM_API_KEY=abc", None),
        (":v0.12.0", ":latest", "unpinned-image"),
        (":v0.12.0", "", "unpinned-image"),
        (":v0.12.0", ":nightly", "unpinned-image"),
        (":v0.12.0", ":latest-cu129", "unpinned-image"),
        (":v0.12.0", "@sha256:0123", None),
        (":v0.12.0", ":latest@sha256:0123", None),
        ("HF_HOME", "TRANSFORMERS_CACHE", "deprecated-variable"),
    ],
)
def test_each_mistake_is_named(old, new, lint):
    assert old in SOUND
    assert found(SOUND.replace(old, new)) == ([lint] if lint else [])


def test_a_server_that_listens_at_home_is_not_open_to_all():
    at_host = SOUND.replace("-p 127.0.0.1:8000:8000", "--network host")
    assert found(f"{at_host} --host 127.0.0.1") == []
    assert found(f"{at_host} --host 0.0.0.0") == ["open-to-all"]
    assert found(f"{at_host} --host 0.0.0.0 --api-key abc") == []


def test_a_positional_model_after_serve_is_seen():
    text = "docker run vllm/vllm-openai:v0.12.0 /models/models--a--b"
    assert found(text) == []  # the image's entrypoint is not on the line
    assert found(text.replace("vllm/vllm-openai:v0.12.0", "other:1 vllm serve")) == ["cache-root-as-model"]


@pytest.mark.parametrize(
    ("flag", "version", "unknown"),
    [
        ("--max-model-len", None, False),
        ("--max_model_len", None, False),
        ("--compilation-config.level", None, False),
        ("--tensor-parallel", None, False),  # a parser completes it
        ("--enable-hybrid-kv-cache-manager", None, False),  # 0.33 takes the opposite of each --disable- flag
        ("--enable-hybrid-kv-cache-manager", "==0.12.*", True),
        ("--enable-hybrid-kv-cache-manager", "==0.13.*", False),  # nothing was recorded from that version
        ("--calculate-kv-scales", None, True),
        ("--calculate-kv-scales", "==0.25.*", False),
        ("--max-num", None, True),  # the beginning of several
    ],
)
def test_a_flag_is_held_against_the_recorded_ones(flag, version, unknown):
    start = StartCommand(engine="vllm", version=version, command=("python3", flag, "8"))
    assert [name for name, _ in launchers_lint.lint(start)] == (["unknown-flag"] if unknown else [])


def test_a_flag_that_is_the_beginning_of_several_is_reported_with_them():
    start = StartCommand(engine="sglang", command=("python3", "--cuda-graph-max-bs", "8"))
    ((_, what),) = launchers_lint.lint(start)
    assert what.startswith("--cuda-graph-max-bs is a prefix of several flags of sglang 0.5.23: ")
    assert what.endswith("--cuda-graph-max-bs-decode, --cuda-graph-max-bs-prefill")


WALKS = ("--context-length", "10000000")


@pytest.mark.parametrize(
    ("version", "command", "flagged"),
    [
        (None, WALKS, False),
        ("==0.5.16", WALKS, True),
        ("==0.5.6", WALKS, False),
        (">=0.5.23,<0.5.24", WALKS, False),
        ("==0.5.16", (*WALKS, "--disable-radix-cache"), False),
        ("==0.5.16", (*WALKS, "--chunked-prefill-size", "8192"), True),
        ("==0.5.16", (*WALKS, "--chunked-prefill-size", "2097152"), False),
        ("==0.5.16", (*WALKS, "--chunked-prefill-size", "-1"), False),
        ("==0.5.16", (*WALKS, "--chunked-prefill-size", "0"), False),
        ("==0.5.16", ("--context-length", "131072"), False),
        ("==0.5.16", ("--context-length",), False),
        ("==0.5.16", (), False),
    ],
)
def test_a_prefix_cache_that_holds_up_a_long_prompt_is_told(version, command, flagged):
    start = StartCommand(engine="sglang", version=version, command=command)
    assert [name for name, _ in launchers_lint.lint(start)] == (["radix-walk"] if flagged else [])
    assert list(launchers_lint.lint(replace(start, engine="vllm", command=()))) == []


def test_a_deployment_says_its_context_elsewhere():
    slow = factories.deployment(backend="sglang", max_model_len=5_000_000, version=">=0.5.16,<0.5.17")
    ((name, found),) = launchers_lint.lint(of_deployment(slow, "sglang"))
    assert (name, "5,000,000 tokens in chunks of 8,192" in found, "7 min 16 s" in found) == ("radix-walk", True, True)


PROBE = {"initialDelaySeconds": 120, "periodSeconds": 30}


@pytest.mark.parametrize(
    ("probes", "patience_s"),
    [
        ({}, None),
        ({"livenessProbe": PROBE}, 210),
        ({"livenessProbe": {}}, 30),
        ({"livenessProbe": PROBE, "startupProbe": {"failureThreshold": 60, "periodSeconds": 30}}, 1800),
    ],
)
def test_the_patience_of_a_pod(probes, patience_s):
    box = {"image": "a:1", "args": ["--model", "m"], **probes}
    start = of_pod(json.dumps({"spec": {"containers": [box]}}), boot_s=476)
    assert start.patience_s == patience_s
    wrong = patience_s is not None and patience_s <= 476
    assert [name for name, _ in launchers_lint.lint(start)] == (["impatient-probe"] if wrong else [])


def test_a_probe_that_gives_up_at_the_very_end_of_the_boot_is_too_short():
    assert [name for name, _ in launchers_lint.lint(StartCommand(patience_s=210, boot_s=210))] == ["impatient-probe"]
    assert list(launchers_lint.lint(StartCommand(patience_s=211, boot_s=210))) == []


@pytest.mark.parametrize(
    ("engine", "version", "flagged"),
    [("vllm", None, True), ("vllm", ">=0.32", True), ("vllm", "==0.12.*", False), ("sglang", None, False)],
)
def test_a_variable_is_deprecated_for_its_own_engine_and_since_its_own_version(engine, version, flagged):
    start = StartCommand(engine=engine, version=version, env={"VLLM_ATTENTION_BACKEND": "FLASH_ATTN"})
    assert [name for name, _ in launchers_lint.lint(start)] == (["deprecated-variable"] if flagged else [])


def test_of_several_mistakes_the_worst_is_named():
    both = SOUND.replace("--entrypoint python3 vllm/vllm-openai:v0.12.0 -m", "vllm/vllm-openai python3 -m")
    assert found(both.replace("meta-llama/Llama", "/models")) == [
        *("double-entrypoint", "cache-root-as-model", "unpinned-image")
    ]
    assert launchers_lint.observe(Ask(command=both), None).signature == "double-entrypoint"
    assert launchers_lint.observe(Ask(command=both), "unpinned-image").signature == "unpinned-image"


def test_what_is_no_start_is_an_error():
    with pytest.raises(TableError, match="no `docker run`"):
        of_command("kubectl apply -f pod.yaml")
    with pytest.raises(TableError, match="must be a Pod in JSON"):
        of_pod("kind: Pod")


def shipped():
    return list(deployment.load_all((paths.suites() / "deployments",)).values())


@pytest.mark.parametrize("one", shipped(), ids=lambda one: one.name)
def test_what_is_shipped_is_sound(one):
    backend: Backend = load(BACKENDS[one.backend])()
    message = [name for name, _ in launchers_lint.lint(of_deployment(one, backend.package))]
    assert message == factories.MISTAKEN.get(one.name, [])


def test_a_start_without_a_command_is_no_trouble():
    assert list(launchers_lint.lint(StartCommand())) == []
    assert found("docker run a:1") == []


def test_a_deployment_is_linted_as_the_docker_launcher_would_start_it():
    wrong = factories.deployment(
        image="vllm/vllm-openai",
        docker={"entrypoint": ["vllm", "serve"], "shm_gib": 0.5},
        env={"TRANSFORMERS_CACHE": "/models"},
        flags={"no-such-flag": True, "tensor-parallel-size": 8},
        timeouts={"boot_s": 60, "usual_boot_s": 600},
    )
    named = [name for name, _ in launchers_lint.lint(of_deployment(wrong, "vllm"))]
    assert named == [
        *("double-entrypoint", "unknown-flag", "impatient-probe", "small-shm", "unpinned-image", "deprecated-variable")
    ]


def test_a_linted_finding_needs_a_start():
    with pytest.raises(TableError, match="needs a command or a pod"):
        factories.finding(question="linted")
    with pytest.raises(TableError, match="needs a command or a pod"):
        factories.finding(ask={"command": "docker run a"})


def test_every_documented_mistake_is_a_published_start_that_is_flagged():
    """Documented mistakes without a published start: an interactive prompt, a removed flag, and an unmeasured case."""
    linted = [each for each in load_all((paths.suites() / "findings",)).values() if each.question == "linted"]
    assert {each.expect.signature for each in linted} == set(launchers_lint.names()) - {
        "needs-a-person",
        "unknown-flag",
        "radix-walk",
    }
    for each in linted:
        seen = launchers_lint.observe(each.ask, each.expect.signature)
        assert (seen.outcome, seen.signature) == (each.expect.outcome, each.expect.signature)
