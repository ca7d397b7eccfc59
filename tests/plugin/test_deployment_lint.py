"""Faults of a deployment are reported before it boots."""

import os
import subprocess
import sys

import pytest

DEPLOYMENT = """
name = "unsound"
title = "t"
backend = "miniature"
image = "somebody/miniature"
max_model_len = 4096
[model]
name = "miniature"
weights = "unknown"
"""
LINE = "unpinned-image: somebody/miniature is a moving tag: it can name another image later"


@pytest.mark.parametrize("more", [[], ["--longctx-plan"]], ids=["run", "plan"])
def test_a_lint_is_one_line(tmp_path, more):
    (tmp_path / "d.toml").write_text(DEPLOYMENT)
    (tmp_path / "test_it.py").write_text("import pytest\n@pytest.mark.finding('LC-0001')\ndef test_it(judge): pass")
    argv = [sys.executable, "-m", "pytest", "--backend=miniature", "--longctx-deployment=d.toml", "-c", os.devnull]
    done = subprocess.run(
        [*argv, "--rootdir=.", *more], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    reported = [line.strip() for line in done.stdout.splitlines() if LINE in line]
    assert reported == ([LINE] if more else [f"longctx: unsound: {LINE}"])
