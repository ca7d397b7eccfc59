"""An engine's own report that its KV cache is corrupted makes each later verdict of the run broken."""

import pytest

from pytest_longctx.backends import named
from pytest_longctx.client.server import Server
from pytest_longctx.deployments.hardware import Hardware
from pytest_longctx.findings.scope import Conditions
from pytest_longctx.findings.verdicts import judge
from pytest_longctx.launchers.boot import Boot
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
