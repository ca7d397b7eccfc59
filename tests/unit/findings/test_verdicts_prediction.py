"""Prediction, finding and observation of one boot: two that agree outweigh the third."""

from dataclasses import replace
from html import escape
from pathlib import Path

import pytest

from pytest_longctx import paths, plan
from pytest_longctx.backends.vllm import Vllm
from pytest_longctx.deployments.capacity import Prediction, Term
from pytest_longctx.deployments.deployment import load
from pytest_longctx.deployments.hardware import Hardware, Machine
from pytest_longctx.findings.finding import load_all
from pytest_longctx.findings.scope import Conditions, mismatch
from pytest_longctx.findings.verdicts import judge, remark
from pytest_longctx.launchers.boot import Boot
from pytest_longctx.observation import Observation
from pytest_longctx.reports import html
from pytest_longctx.reports.causes import causes, remarks
from pytest_longctx.units import GiB
from tests.unit import factories

TABLE = Term("req_to_token", 76.33 * GiB)
FITS = Prediction("serves", (TABLE,), 100)
FAILS = Prediction("runs out of memory", (TABLE,), 100, culprit=TABLE, failing_bytes=2.22 * GiB)
FINDING = factories.finding(
    question="boot-fails", expect={"outcome": "runs out of memory", "signature": "gpu-out-of-memory"}
)


def died(size_gib: float | None = 2.22, **changes: object) -> Observation:
    content = {"outcome": "runs out of memory", "signature": "gpu-out-of-memory", **changes}
    return Observation(metrics={"allocation_gib": size_gib}, **content)  # type: ignore[arg-type]


@pytest.mark.parametrize("size_gib", [2.22, 2.15, None])
def test_where_all_three_agree_nothing_is_said(size_gib):
    verdict = judge(FINDING, died(size_gib), remark=remark(FINDING, FAILS, died(size_gib)))
    assert (verdict.word, verdict.why) == ("holds", "")


@pytest.mark.parametrize(("foreseen_gib", "message"), [(0.0148, False), (0.0162, True)])
def test_a_size_that_was_logged_to_hundredths_is_compared_as_such(foreseen_gib, message):
    predicted = replace(FAILS, failing_bytes=foreseen_gib * GiB)
    assert bool(remark(FINDING, predicted, died(0.01))) is message


@pytest.mark.parametrize(
    ("predicted", "seen", "word", "message"),
    [
        (
            FAILS,
            Observation("serves"),
            "broken",
            (
                "predicted that it runs out of memory at 2.22 GiB (req_to_token 76.33 GiB) as documented, but it started: "
                "the engine has changed, or the machine differs"
            ),
        ),
        (
            FAILS,
            died(outcome="refuses", signature="dirty-gpu"),
            "broken",
            "as documented, but it refuses (dirty-gpu): the engine has changed, or the machine differs",
        ),
        (
            FAILS,
            died(signature="weights-do-not-fit"),
            "broken",
            "and it runs out of memory (weights-do-not-fit), not by the documented cause: the finding is wrong, or its cause",
        ),
        (
            FAILS,
            died(9.54),
            "holds",
            "predicted to fail at 2.22 GiB, failed at 9.54 GiB: the predicted size is wrong, or another allocation failed",
        ),
        (
            FITS,
            died(),
            "holds",
            "predicted to fit, but it runs out of memory (gpu-out-of-memory) as documented: the prediction is wrong, or this",
        ),
        (
            FITS,
            Observation("serves"),
            "broken",
            "predicted to fit, and it started, documented that it runs out of memory (gpu-out-of-memory): the finding is wrong",
        ),
        (
            FITS,
            died(outcome="hangs", signature=None, kind="hang"),
            "broken",
            "predicted to fit, documented that it runs out of memory (gpu-out-of-memory), and it hangs (hang): all three",
        ),
    ],
)
def test_where_two_agree_the_third_is_named(predicted, seen, word, message):
    verdict = judge(FINDING, seen, remark=remark(FINDING, predicted, seen))
    assert verdict.word == word
    assert message in verdict.why


@pytest.mark.parametrize("seen_gib", [2.39, 2.50, 2.53, 2.54])
def test_a_refusal_is_held_to_what_one_request_was_predicted_to_need(seen_gib):
    predicted = Prediction("refuses", (), 100, culprit=Term("KV cache of one request", 2.40 * GiB))
    finding = factories.finding(question="boot-fails", expect={"outcome": "refuses"})
    seen = Observation("refuses", {"kv_needed_gib": seen_gib})
    assert ("predicted to fail at 2.40 GiB" in remark(finding, predicted, seen)) is (seen_gib > 2.405 / 0.95)


@pytest.mark.parametrize(
    "finding",
    [
        factories.finding(question="boot-fails", expect={"outcome": "asserts"}),
        factories.finding(question="boot-fails", expect={"outcome": "refuses", "phase": "config"}),
        factories.finding(question="served", ask={"prompt_tokens": 10}),
    ],
)
def test_what_no_memory_decides_is_not_spoken_of(finding):
    assert remark(finding, FITS, Observation("dies")) == ""


def test_a_boot_that_nothing_was_predicted_of_is_not_spoken_of():
    assert remark(FINDING, None, died()) == ""


def shipped(name: str) -> Prediction | None:
    one = load(paths.suites() / "deployments" / f"{name}.toml")
    return plan.predict(one, Vllm(), Machine(Hardware("H200", 8), host_bytes=560 * GiB))


def test_a_host_too_small_for_the_tables_of_its_workers_is_foreseen_with_its_cure():
    """The boot of 2026-11-20: eight workers on a host with 560 GiB, killed by the kernel."""
    found = shipped("scout-vllm-10m-random-fp8")
    assert found is not None
    assert (found.outcome, str(found.culprit)) == ("dies", "tables of 8 workers 823.97 GiB of host memory")
    assert found.cure == "--max-num-seqs 8"
    cured = shipped("scout-vllm-10m-random-fp8-few-requests")
    assert cured is not None
    assert cured.fits


def test_a_larger_host_or_one_that_is_not_known_is_not_foreseen_to_fail():
    one = load(paths.suites() / "deployments" / "scout-vllm-10m-random-fp8.toml")
    for host_bytes in (None, 1024 * GiB):
        found = plan.predict(one, Vllm(), Machine(Hardware("H200", 8), host_bytes=host_bytes))
        assert found is not None
        assert found.fits


@pytest.mark.parametrize(
    ("host_gib", "settled", "line"),
    [
        (560, True, None),
        (588, True, None),
        (1024, False, "host memory: 1024 GiB; the finding needs at most 588 GiB"),
        (None, False, None),
        (None, True, "host memory: unknown; the finding needs at most 588 GiB"),
    ],
)
def test_a_failure_for_want_of_host_memory_is_only_spoken_of_where_the_host_is_small(host_gib, settled, line):
    finding = factories.finding(scope={"host_gib_at_most": 588})
    here = Conditions(factories.deployment(), host_bytes=host_gib and host_gib * GiB)
    found = mismatch(finding, here, settled=settled)
    assert (found and found.line) == line


def test_the_report_says_of_a_documented_failure_that_it_was_predicted_otherwise():
    message = remark(FINDING, FITS, died())
    boot = factories.booted(outcome="runs out of memory", signature="gpu-out-of-memory")
    row = {**factories.verdict(word="holds"), "why": message}
    run = factories.results(row, boots=[boot])
    assert causes(run) == []
    assert remarks(run) == [row]
    assert f'1 holds with a remark</span>: <a href="#TT-0001">TT-0001</a> {escape(message)}.' in html.page(run)


def test_the_report_says_of_a_boot_that_came_up_that_it_was_predicted_otherwise():
    finding = factories.finding()
    message = remark(finding, FAILS, Observation("serves"))
    assert message.endswith(
        "but it started as documented: the prediction is wrong, or this machine differs from the assumed machine"
    )
    row = {**factories.verdict(word="holds"), "why": message}
    assert remarks(factories.results(row, boots=[factories.booted()])) == [row]
    assert not remarks(factories.results(factories.verdict(word="holds"), boots=[factories.booted()]))


def test_a_boots_record_has_its_prediction():
    boot = Boot(Conditions(factories.deployment()), {}, 1.0, log=Path("a.log"), predicted=FAILS)
    assert boot.record()["predicted"]["culprit"]["name"] == "req_to_token"
    assert "predicted" not in Boot(Conditions(factories.deployment()), {}, 1.0).record()


def test_only_findings_about_small_hosts_are_left_out_of_a_plan_without_one():
    known = load_all((paths.suites() / "findings",))
    assert {name for name, finding in known.items() if finding.scope.host_gib_at_most} == {"VH-0011"}
