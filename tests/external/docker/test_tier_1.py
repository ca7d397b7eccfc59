"""The suites against a real vLLM in a container. Needs ``longctx engine vllm-cpu`` beside ``.ci/docker-engine``."""

import subprocess
import sys
from pathlib import Path

from tests.external.docker.conftest import in_container

ROOT = Path(__file__).parents[3]
FINDINGS = ("VC-0001", "VC-0048", "VC-0002", "VC-0003", "VC-0004", "VC-0005")
"""Boots that serve and refuse, and prompts. The first two are about one pool, in BF16 and in FP32: what this CPU is fast in."""


def test_the_suites_hold_in_a_container(tmp_path):
    names = ("cpu-tiny-64k", "cpu-tiny-10m-1gib", "cpu-tiny-10m-3gib")
    files = ",".join(str(in_container(tmp_path, name)) for name in names)
    argv = [sys.executable, "-m", "pytest", "suites", "--backend=vllm-cpu", "--longctx-launcher=docker"]
    more = [f"--longctx-deployment={files}", f"--longctx-results={tmp_path / 'results'}", "-k", " or ".join(FINDINGS)]
    done = subprocess.run([*argv, *more], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:]
    held = {line[:7] for line in done.stdout.splitlines() if " holds " in line}
    assert len(held) == len(FINDINGS) - 1
    assert len({"VC-0001", "VC-0048"} & held) == 1
