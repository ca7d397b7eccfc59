"""Comparison of two backends: on equal terms, or not at all."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_longctx.cli import main
from pytest_longctx.errors import UsageError
from pytest_longctx.reports import results
from pytest_longctx.reports.analysis import CaseKey
from pytest_longctx.reports.compare import RECORDED, Gate, compare, on_equal_terms
from pytest_longctx.reports.results import Results
from tests.unit import factories

REAL = Path(__file__).parents[3] / "docs/results/vllm-0.25.1-1xh200/results.jsonl"
TERMS = {
    "hardware": "1xH200",
    "model": "tiny (config 1)",
    "seed": "7",
    "ordinary_ids": "16-4096",
    "decoding": "temperature=0, ignore_eos=True",
}
MEASURED = {"ttft_s": 1.0, "prompt_tokens": 1000.0, "completion_tokens": 4.0, "cached_share": 0.0}


def run(backend: str, *findings: str, measured: Any = None, **server: Any) -> Results:
    """Return a run of *backend* on a deployment with the same name."""
    rows = []
    for finding in findings or ("TT-0001",):
        row = factories.verdict(finding, "tiny", "holds", **{**MEASURED, **(measured or {})})
        facts = {**TERMS, **server, "deployment": f"on-{backend}"}
        rows.append({**row, "server": {name: value for name, value in facts.items() if value is not None}})
    found = factories.results(*rows)
    return replace(found, header={**found.header, "backend": backend})


def complaint(before: Results, after: Results) -> list[str]:
    with pytest.raises(UsageError) as problem:
        on_equal_terms(before, after)
    return [line.strip() for line in str(problem.value).splitlines()[1:-1]]


def test_on_equal_terms_they_are_paired_by_finding():
    before, after = on_equal_terms(run("vllm"), run("sglang", measured={"ttft_s": 1.5}))
    found = {
        (change.case, change.measure): (change.word, change.before, change.after) for change in compare(before, after)
    }
    assert found[CaseKey("TT-0001", "vllm : sglang"), "ttft_s"] == ("changed", 1.0, 1.5)
    assert Gate.of(before, "ttft_s:10%").missed(after)


def test_what_only_one_of_them_judged_is_left_out():
    before, after = on_equal_terms(run("vllm", "TT-0001", "TT-0002"), run("sglang", "TT-0002", "TT-0003"))
    assert {change.case.finding for change in compare(before, after)} == {"TT-0002"}


@pytest.mark.parametrize("name", RECORDED)
def test_a_fact_that_differs_or_is_not_recorded_is_refused_and_named(name):
    assert complaint(run("vllm"), run("sglang", **{name: "other"})) == [
        f"{name}: {TERMS[name]} against other (TT-0001)"
    ]
    assert complaint(run("vllm", **{name: None}), run("sglang", **{name: None})) == [
        f"{name}: not recorded against not recorded (TT-0001)"
    ]


@pytest.mark.parametrize(
    ("measured", "term"),
    [
        ({"prompt_tokens": 1001.0}, "prompt_tokens: 1,000 against 1,001"),
        ({"completion_tokens": 3.0}, "completion_tokens: 4 against 3"),
        ({"cached_share": 0.5}, "cache: cold against warm"),
    ],
)
def test_another_count_and_another_cache_are_other_terms(measured, term):
    assert complaint(run("vllm"), run("sglang", measured=measured)) == [f"{term} (TT-0001)"]


def test_every_term_is_listed_once_with_the_findings_it_is_about():
    findings = [f"TT-000{i}" for i in range(1, 6)]
    assert complaint(run("vllm", *findings), run("sglang", *findings, seed="8", hardware="8xH100")) == [
        "hardware: 1xH200 against 8xH100 (TT-0001, TT-0002, TT-0003 and 2 more)",
        "seed: 7 against 8 (TT-0001, TT-0002, TT-0003 and 2 more)",
    ]


def test_a_finding_on_two_deployments_has_no_counterpart():
    one = run("vllm")
    two = replace(one, verdicts=[*one.verdicts, {**one.verdicts[0], "server": {**TERMS, "deployment": "b"}}])
    assert complaint(two, run("sglang")) == ["judged on more than one deployment: b, on-vllm (TT-0001)"]


def test_nothing_in_common_is_no_comparison():
    with pytest.raises(UsageError, match="vllm and sglang have no judged finding in common"):
        on_equal_terms(run("vllm", "TT-0001"), run("sglang", "TT-0002"))


def test_one_backend_is_compared_as_ever():
    before, after = run("vllm"), run("vllm", seed="8")
    assert on_equal_terms(before, after) == (before, after)


def test_the_console_refuses_with_the_list(tmp_path, capsys):
    text = REAL.read_text(encoding="utf-8")
    (tmp_path / "other.jsonl").write_text(text.replace('"backend": "vllm"', '"backend": "sglang"', 1), encoding="utf-8")
    assert main(["compare", str(REAL), str(tmp_path / "other.jsonl")]) == 2
    assert "decoding: not recorded against not recorded" in capsys.readouterr().err
    assert results.read(REAL).header["backend"] == "vllm"
