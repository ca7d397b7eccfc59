"""
Cost of the installed plugin for a run that does not use it: ``pytest --collect-only`` with and without it, in pairs.

The script prints the ratio and the difference of the medians. The limit is 30 ms. Run it with ``python
benchmarks/idle_plugin.py``.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

PAIRS = 25
LIMIT_S = 0.030


def once(folder: Path, *arguments: str) -> float:
    """Return the duration in seconds of one collection in *folder*."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-c", os.devnull, "--rootdir=.", *arguments]
    started_s = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started_s


def main() -> int:
    """Measure and print the results, and fail if the limit is exceeded."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "test_it.py").write_text("def test_it(): pass\n", encoding="utf-8")
        without, beside = [], []
        for _ in range(PAIRS):
            without.append(once(folder, "-p", "no:longctx"))
            beside.append(once(folder))
    added_s = median(beside) - median(without)
    print(
        f"without {median(without):.3f} s, with {median(beside):.3f} s: ratio {median(beside) / median(without):.3f}, ",
        end="",
    )
    print(f"{added_s * 1000:+.1f} ms (limit {LIMIT_S * 1000:.0f} ms, median of {PAIRS} pairs)")
    return 0 if added_s < LIMIT_S else 1


if __name__ == "__main__":
    sys.exit(main())
