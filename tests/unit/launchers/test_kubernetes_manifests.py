import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_longctx import paths
from pytest_longctx.backends import Backend
from pytest_longctx.backends.miniature import Miniature
from pytest_longctx.backends.openai import OpenAI
from pytest_longctx.backends.sglang import Sglang
from pytest_longctx.backends.vllm import Vllm
from pytest_longctx.deployments import deployment
from pytest_longctx.errors import LaunchError
from pytest_longctx.launchers import lint
from pytest_longctx.launchers.kubernetes import manifests
from pytest_longctx.launchers.kubernetes.object_cleanup import RUN_LABEL
from pytest_longctx.launchers.start_command import of_pod
from pytest_longctx.registry import BACKENDS, load
from tests.unit import factories

VERSIONS = ("1.30", "1.34", "1.37")
RUN = manifests.Owner("serving", "0123456789abcdef", {"apiVersion": "v1", "kind": "ConfigMap", "name": "o", "uid": "u"})
LWS = json.loads((Path(__file__).parents[2] / "data" / "leaderworkerset-v1.json").read_text())


def one(**changes):
    return factories.deployment(**{"image": "vllm/vllm-openai:v0.12.0", "max_model_len": 65536, **changes})


def rendered(owner=None, backend=Vllm, model="meta-llama/Llama", **changes):
    return manifests.render(backend(), one(**changes), model, owner)


def engine(*arguments, **changes):
    """Return the only container, and the specification of its Pod."""
    spec = rendered(*arguments, **changes)[0]["spec"]
    return spec["containers"][0], spec


def shipped():
    """Return every shipped deployment with its backend, each with an image."""
    for each in deployment.load_all((paths.suites() / "deployments",)).values():
        backend: Backend = load(BACKENDS[each.backend])()
        yield backend, each if each.image else each.model_copy(update={"image": "engine/server:1"})


def of_shipped(owner=None):
    for backend, each in shipped():
        reported = each.model.id or f"/models/{each.model.name}"
        yield backend, each, manifests.render(backend, each, reported, owner)


def as_pods(manifest):
    """Return the Pods in *manifest*, for schemas without LeaderWorkerSet."""
    if manifest["kind"] != "LeaderWorkerSet":
        return [manifest]
    held = manifest["spec"]["leaderWorkerTemplate"]
    return [
        {"apiVersion": "v1", "kind": "Pod", **held[which], "metadata": {"name": which, **held[which]["metadata"]}}
        for which in ("leaderTemplate", "workerTemplate")
    ]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("owner", [None, RUN], ids=["to keep", "of a run"])
def test_what_is_shipped_keeps_to_the_published_schema(version, owner):
    validate = pytest.importorskip("kubernetes_validate").validate
    kinds = {(backend.name, each.hardware, len(each.pass_env)): objects for backend, each, objects in of_shipped(owner)}
    checked = [validate(each, version, strict=True) for found in kinds.values() for m in found for each in as_pods(m)]
    assert set(checked) == {version}
    assert len(checked) > 20


def test_the_example_of_two_roles_keeps_to_the_published_schema():
    validate = pytest.importorskip("kubernetes_validate").validate
    yaml = pytest.importorskip("yaml")
    path = Path(__file__).parents[3] / "docs/examples/disaggregated.yaml"
    made = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    assert [each["kind"] for each in made] == ["Pod", "Service"] * 3
    assert {validate(each, VERSIONS[-1], strict=True) for each in made} == {VERSIONS[-1]}
    roles = {
        each["metadata"]["name"]: " ".join(each["spec"]["containers"][0]["args"])
        for each in made
        if each["kind"] == "Pod"
    }
    assert "kv_producer" in roles["longctx-prefill"]
    assert "kv_consumer" in roles["longctx-decode"]


def test_the_schemas_refuse_what_they_do_not_know():
    """The check above must not pass because nothing is checked."""
    validate = pytest.importorskip("kubernetes_validate")
    wrong, _ = rendered()
    wrong["spec"]["containers"][0]["startupProbe"]["patience"] = 3
    with pytest.raises(validate.ValidationError, match="patience"):
        validate.validate(wrong, VERSIONS[-1], strict=True)


def test_a_leader_worker_set_keeps_to_its_schema():
    jsonschema = pytest.importorskip("jsonschema")
    found = [m for _, _, all_ in of_shipped(RUN) for m in all_ if m["kind"] == "LeaderWorkerSet"]
    assert len(found) == 2
    for each in found:
        jsonschema.validate(each, LWS)


def test_what_is_shipped_has_none_of_the_documented_mistakes():
    for backend, each, objects in of_shipped():
        for made in as_pods(objects[0]):
            start = of_pod(json.dumps(made), each.timeouts.usual_boot_s)
            message = [name for name, _ in lint.lint(replace(start, engine=backend.package, version=each.version))]
            assert message == factories.MISTAKEN.get(each.name, []), each.name


@pytest.mark.parametrize(
    ("hardware", "nodes", "resource"),
    [
        ("8xH200", 1, ("nvidia.com/gpu", "8")),
        ("16xH200", 2, ("nvidia.com/gpu", "8")),
        ("12xH200", 2, ("nvidia.com/gpu", "6")),
        ("16xMI300X", 2, ("amd.com/gpu", "8")),
        ("16xtrn2", 1, ("aws.amazon.com/neuron", "16")),
        ("cpu", 1, None),
    ],
)
def test_hardware_becomes_devices_of_nodes(hardware, nodes, resource):
    made = rendered(hardware=hardware, flags={"distributed-executor-backend": "ray"})[0]
    assert (made["kind"] == "LeaderWorkerSet") is (nodes > 1)
    pods = as_pods(made)
    assert len(pods) == min(nodes, 2)
    for each in pods:
        limits = each["spec"]["containers"][0]["resources"].get("limits")
        assert limits == (dict([resource]) if resource else None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": None}, "names no container image"),
        ({"hardware": "9xH200"}, "cannot be divided evenly over 2 nodes of up to 8 devices\n.*to a divisor of 9"),
        ({"hardware": "16xH200"}, "uses Ray"),
    ],
)
def test_what_cannot_be_rendered_is_said(changes, message):
    with pytest.raises(LaunchError, match=message):
        rendered(**changes)
    with pytest.raises(LaunchError, match="host_flag"):
        rendered(backend=OpenAI)


def test_two_nodes_are_one_ray_cluster_whose_leader_serves():
    made, service = rendered(hardware="16xMI300X", flags={"distributed-executor-backend": "ray"})
    leader, worker = (each["spec"]["containers"][0] for each in as_pods(made))
    assert made["spec"]["leaderWorkerTemplate"]["size"] == 2
    shell, script, waits, python, *rest = leader["args"]
    assert (shell, python, rest[:2]) == ("-c", "python3", ["-m", "vllm.entrypoints.openai.api_server"])
    assert '"$1" -c "$0"' in script
    compile(waits, "the wait", "exec")
    assert "< 2" in waits
    assert "readinessProbe" in leader
    assert not [name for name in worker if name.endswith("Probe")]
    assert "LWS_LEADER_ADDRESS" in worker["args"][1]
    assert service["spec"]["selector"].items() >= manifests.LEADER.items()
    assert made["spec"]["leaderWorkerTemplate"]["restartPolicy"] == "RecreateGroupOnPodRestart"


def test_a_run_is_never_started_again_and_ends_some_day():
    _, kept = engine()
    _, run = engine(RUN, kubernetes={"hours": 2})
    assert (kept["restartPolicy"], "activeDeadlineSeconds" in kept) == ("Always", False)
    assert (run["restartPolicy"], run["activeDeadlineSeconds"]) == ("Never", 7200)
    for each in rendered(RUN):
        assert each["metadata"]["namespace"] == "serving"
        assert each["metadata"]["labels"][RUN_LABEL] == RUN.run_id
        assert each["metadata"]["ownerReferences"] == [RUN.reference]
        assert each["metadata"]["name"] == "longctx-tiny-01234567"


@pytest.mark.parametrize("backend", [Vllm, Sglang, Miniature])
def test_the_key_is_a_reference(backend):
    box, _ = engine(backend=backend)
    (from_key,) = (each for each in box["env"] if "valueFrom" in each)
    assert from_key["valueFrom"]["secretKeyRef"] == {"name": "longctx-tiny-key", "key": "api-key"}
    if backend is Sglang:
        assert box["args"][-2:] == ["--api-key", f"$({from_key['name']})"]
    else:
        assert from_key["name"] == "VLLM_API_KEY"


def test_a_token_is_a_reference_and_may_be_missing(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    objects = rendered(pass_env=["HF_TOKEN"], kubernetes={"secret": "tokens"})
    (token,) = (each for each in objects[0]["spec"]["containers"][0]["env"] if each["name"] == "HF_TOKEN")
    assert token["valueFrom"]["secretKeyRef"] == {"name": "tokens", "key": "HF_TOKEN", "optional": True}
    assert "hf_secret" not in json.dumps(objects)
    assert manifests.secrets_to_make(objects) == [
        'kubectl create secret generic tokens --from-literal=HF_TOKEN="$HF_TOKEN"',
        'kubectl create secret generic longctx-tiny-key --from-literal=api-key="$LONGCTX_API_KEY"',
    ]


def test_a_service_cannot_become_a_port_of_the_engine():
    assert engine()[1]["enableServiceLinks"] is False


@pytest.mark.parametrize(
    ("model", "models", "source", "mount"),
    [
        ("/m/llama", None, {"hostPath": {"path": "/m/llama", "type": "Directory"}}, ("/m/llama", True)),
        ("/m/llama", "weights", {"persistentVolumeClaim": {"claimName": "weights"}}, ("/m/llama", True)),
        ("a/b", None, {"emptyDir": {}}, ("/models/huggingface", None)),
        ("a/b", "/cache", {"hostPath": {"path": "/cache", "type": "Directory"}}, ("/models/huggingface", None)),
        (
            "/h/models--a/snapshots/1",
            None,
            {"hostPath": {"path": "/h/models--a", "type": "Directory"}},
            ("/h/models--a", True),
        ),
    ],
)
def test_where_the_model_is(model, models, source, mount):
    origin = {} if model.startswith("/") else {"id": model}
    named = one(model={"name": "llama", **origin}, kubernetes={"models": models} if models else {})
    spec = manifests.render(Vllm(), named, model)[0]["spec"]
    (box,) = spec["containers"]
    assert ({"name": "HF_HOME", "value": "/models/huggingface"} in box["env"]) is bool(origin)
    assert {"name": "model", **source} in spec["volumes"]
    (found,) = (each for each in box["volumeMounts"] if each["name"] == "model")
    assert (found["mountPath"], found.get("readOnly")) == mount


def test_memory_shared_memory_and_mounts_are_those_of_a_container():
    docker = {"shm_gib": 0.5, "memory_gib": 64, "mounts": ["/a:/b:ro", "/c:/d"]}
    box, spec = engine(docker=docker, hardware="8xH200")
    assert box["resources"]["limits"] == box["resources"]["requests"] == {"nvidia.com/gpu": "8", "memory": "64Gi"}
    assert {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "512Mi"}} in spec["volumes"]
    assert [each for each in box["volumeMounts"] if each["name"].startswith("mount")] == [
        {"name": "mount-0", "mountPath": "/b", "readOnly": True},
        {"name": "mount-1", "mountPath": "/d"},
    ]


def test_where_it_may_run():
    table = {"node_selector": {"gpu": "h200"}, "tolerate": ["nvidia.com/gpu"], "runtime_class": "nvidia"}
    _, spec = engine(kubernetes=table)
    assert spec["nodeSelector"] == {"gpu": "h200"}
    assert spec["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists"}]
    assert spec["runtimeClassName"] == "nvidia"


def patience_s(probe):
    return probe["periodSeconds"] * probe["failureThreshold"]


@given(
    boot_s=st.floats(1, 1e5),
    usual_s=st.floats(1, 1e5),
    length=st.integers(1, 10_485_760),
    rate=st.floats(1, 1e5),
)
def test_no_probe_gives_up_before_the_boot_and_the_longest_prompt_are_over(boot_s, usual_s, length, rate):
    timeouts = {"boot_s": boot_s, "usual_boot_s": usual_s, "slowest_prefill_tokens_per_s": rate}
    made = one(max_model_len=length, timeouts=timeouts)
    found = manifests.probes("/health", 8000, made)
    assert patience_s(found["startupProbe"]) > max(boot_s, usual_s)
    for probe in (found["livenessProbe"], found["readinessProbe"]):
        assert patience_s(probe) > max(boot_s, usual_s, made.timeouts.request_s(length, 0))


def kubelet(text, env):
    """Expand ``$(NAME)`` like the kubelet: ``$$`` is one ``$``, and an unknown name is kept."""
    return re.sub(r"\$(\$|\((\w+)\))", lambda found: "$" if found[1] == "$" else env.get(found[2], found[0]), text)


@given(st.text(alphabet="$()ab \n", max_size=12))
def test_the_kubelet_leaves_every_word_as_it_was(word):
    assert kubelet(manifests.literal(word), {"a": "wrong", "ab": "wrong"}) == word


@given(st.from_regex(r"[a-z0-9][a-z0-9.-]{0,80}", fullmatch=True), st.booleans())
def test_every_name_is_one_for_a_service(name, of_run):
    found = manifests.name_of(one(name=name), RUN.run_id if of_run else None)
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", found)
    assert len(found) <= 63 - len("-0-15") - len("-key")
