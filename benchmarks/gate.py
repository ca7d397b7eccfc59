"""
Reliability of a gate on the time to first token, on this machine with a real clock.

A miniature delays the first token of a long prompt by 1 s. One run is the baseline. Ten more runs on the same server must be
green, and one on a server that is 15 % slower must be red and name its finding. The script prints each run's ratio to the
baseline. Run it with ``python benchmarks/gate.py``.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from pytest_longctx import paths
from pytest_longctx.reports import results

RUNS = 10
LATE_S = 1.0
SLOWER = 1.15
LIMIT = "ttft_s:10%"

DEPLOYMENT = """
name = "late"
title = "a miniature whose time to first token is known"
backend = "miniature"
max_model_len = 65_536
[model]
name = "miniature"
weights = "unknown"
[flags]
fault = "late-first-token"
late-s = {late_s}
"""


def run(folder: Path, late_s: float, *gate: str) -> tuple[int, float]:
    """Run LC-0002 on a server with a delay of *late_s*. Returns the exit code and the TTFT."""
    (folder / "late.toml").write_text(DEPLOYMENT.format(late_s=late_s), encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pytest",
        str(paths.suites()),
        "-q",
        "-c",
        os.devnull,
        "--rootdir=.",
        "-k",
        "LC-0002",
    ]
    options = ["--backend=miniature", "--longctx-deployment=late.toml", *gate]
    done = subprocess.run([*command, *options], cwd=folder, check=False, stdout=subprocess.DEVNULL)
    (row,) = results.read(folder / "results" / results.NAME).verdicts
    return done.returncode, row["measured"]["ttft_s"]


def main() -> int:
    """Measure and print the results, and fail if the gate was wrong."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _, before_s = run(folder, LATE_S)
        (folder / "results" / results.NAME).rename(folder / "baseline.jsonl")
        gate = (f"--longctx-baseline={folder / 'baseline.jsonl'}", f"--longctx-fail-on={LIMIT}")
        same = [run(folder, LATE_S, *gate) for _ in range(RUNS)]
        slow = run(folder, LATE_S * SLOWER, *gate)
    print("same server: " + ", ".join(f"{ttft_s / before_s:.3f}{' RED' if code else ''}" for code, ttft_s in same))
    print(f"{SLOWER:.2f} times slower: {slow[1] / before_s:.3f}{' red' if slow[0] else ' GREEN'}")
    return int(any(code for code, _ in same) or not slow[0])


if __name__ == "__main__":
    sys.exit(main())
