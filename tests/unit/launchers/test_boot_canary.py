"""An engine's own report that its KV cache is corrupted makes each later verdict of the run broken."""

import json
from pathlib import Path

import pytest

from pytest_longctx.backends import named
from pytest_longctx.client.server import Server
from pytest_longctx.deployments.hardware import Hardware
from pytest_longctx.findings.scope import Conditions
from pytest_longctx.findings.verdicts import judge
from pytest_longctx.launchers.boot import Boot, LinesCounted
from pytest_longctx.observation import Observation
from tests.unit import factories

VIOLATION = (
    "[2026-11-28 10:00:00] kv_canary violation: launch_tag=HEAD_K_FULL fail_reason=verify_chain_hash slot_idx=17 position=42 "
    "stored_token=111 expected_token=0\n"
)


@pytest.mark.parametrize(
    ("backend", "logged", "word"),
    [
        ("sglang", "The server is fired up and ready to roll!\n", "holds"),
        ("sglang", f"fired up\n{VIOLATION}{VIOLATION}", "broken"),
        ("vllm", VIOLATION, "holds"),  # not a line of this engine
    ],
)
def test_a_logged_violation_is_red(tmp_path, backend, logged, word):
    log = tmp_path / "log"
    log.write_text(logged, encoding="utf-8")
    one = factories.deployment(backend=backend)
    server = Server("http://127.0.0.1:1", "llama", named(backend), one, "process", log=log)
    boot = Boot(Conditions(one, Hardware.parse("1xH200"), None, 8192), {}, 1.0, server)
    served = factories.finding(question="served", ask={"prompt_tokens": 100, "output_tokens": 4})
    verdict = judge(served, boot.evidence(factories.exchange()))
    assert verdict.word == word
    if word == "broken":
        assert [str(line) for line in verdict.broken] == ["kv_canary_violations: 2 slots, wanted exactly 0 slots"]
        assert "fail_reason=verify_chain_hash" in verdict.why


def test_each_line_is_read_once_and_a_line_that_is_being_written_is_left_for_later(tmp_path):
    log, seen = tmp_path / "log", LinesCounted()
    log.write_bytes(b"ready\nkv_canary violation: a\nkv_canary viol")
    seen.more(log, "kv_canary violation")
    assert (seen.count, seen.read_bytes) == (1, len(b"ready\nkv_canary violation: a\n"))
    # What was read is not read again: the old lines could be anything now.
    log.write_bytes(b"x" * 5 + b"\n" + b"y" * 25 + b"\nkv_canary violation: b\n")
    seen.more(log, "kv_canary violation")
    assert (seen.count, seen.first) == (2, "kv_canary violation: a")
    seen.more(log, "kv_canary violation")
    assert seen.count == 2


def test_a_log_that_was_cut_is_read_anew(tmp_path):
    log, seen = tmp_path / "log", LinesCounted()
    log.write_text("kv_canary violation: a\n" * 3, encoding="utf-8")
    seen.more(log, "kv_canary violation")
    log.write_text("kv_canary violation: b\n", encoding="utf-8")
    seen.more(log, "kv_canary violation")
    assert (seen.count, seen.first) == (1, "kv_canary violation: b")


RECORDED = Path(__file__).parents[3] / "docs/results/sglang-0.5.23-1xh200/cache-paths/canary-damaged.jsonl"


@pytest.mark.parametrize(
    ("bound", "changed", "word"),
    [
        ({"at_least": 1}, None, "holds"),  # as SGLang answered while it damaged its own cache: controls differed, too
        ({"at_least": 1}, 2, "holds"),
        ({"at_least": 2000}, None, "broken"),
        ({"at_most": 2000}, None, "unmeasured"),
        ({"at_most": 2000}, 2, "broken"),
    ],
)
def test_an_answer_may_change_only_where_corruption_is_wanted(bound, changed, word):
    rows = [json.loads(line) for line in RECORDED.read_text().splitlines()]
    (row,) = (row for row in rows if row.get("finding") == "SG-0071")
    wanted = factories.finding(
        question="path",
        ask={"path": "same-at-once", "prompt_tokens": 1000, "output_tokens": 64},
        bounds={"kv_canary_violations": {"unit": "slots", **bound}},
    )
    seen = Observation("serves", {**row["measured"], "answers_changed": changed})
    assert row["measured"]["kv_canary_violations"] == 1024
    assert judge(wanted, seen).word == word
