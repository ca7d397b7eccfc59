"""A run compared with an earlier one within its tests. With a clock instead of pinned times: ``benchmarks/gate.py``."""

import pytest

from pytest_longctx import cli

PINNED = """
from dataclasses import replace

import pytest

@pytest.mark.parametrize("ttft_s", {times})
@pytest.mark.finding("LC-0002")
def test_it(prompt, ask, judge, ttft_s):
    seen = ask(prompt(10_000), 32)
    judge(replace(seen, arrivals_s=(seen.started_s + ttft_s,), usage=replace(seen.usage, cached_tokens=0), ledger=None))
"""


@pytest.fixture
def pinned(run, pytester):
    """Run the finding for 10,000 tokens on a miniature with its times to first token pinned to *times*."""

    def start(times, *arguments):
        pytester.makepyfile(test_pinned=PINNED.format(times=list(times)))
        return run("--backend=miniature", *arguments, what=str(pytester.path / "test_pinned.py"))

    return start


@pytest.fixture
def baseline(pinned, pytester):
    """Return the options that compare a run with a baseline of one second."""
    path = pinned([1.0]).folder / "results" / "results.jsonl"
    path.rename(pytester.path / "baseline.jsonl")
    return ("--longctx-baseline=baseline.jsonl", "--longctx-fail-on=ttft_s:10%")


def test_a_slowdown_of_15_percent_is_red_and_named(pinned, baseline):
    done = pinned([1.15], *baseline, "--junitxml=report.xml")
    assert done.outcome.ret == 1
    (row,) = done.results.verdicts
    assert (row["finding"], row["verdict"], row["outcome"]) == ("LC-0002", "broken", "failed")
    assert row["why"] == "ttft_s: 1.15 s, +15 % worse, wanted at most 10 % worse than 1 s (baseline)"
    assert 'failures="1"' in (done.folder / "report.xml").read_text()
    assert cli.main(["compare", "baseline.jsonl", "results/results.jsonl", "--fail-on=ttft_s:10%"]) == 1


def test_ten_runs_within_the_noise_are_green(pinned, baseline):
    done = pinned([1 + 0.02 * turn - 0.09 for turn in range(10)], *baseline)
    done.outcome.assert_outcomes(passed=10)
    assert cli.main(["compare", "baseline.jsonl", "results/results.jsonl", "--fail-on=ttft_s:10%"]) == 0


def test_a_finding_that_the_baseline_does_not_know_is_judged_as_ever(run, baseline):
    run("--backend=miniature", "-m", "ten_k", *baseline).outcome.assert_outcomes(passed=2)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--longctx-fail-on=ttft_s:10%"], "give both"),
        (["--longctx-baseline=baseline.jsonl"], "give both"),
        (["--longctx-baseline=none.jsonl", "--longctx-fail-on=ttft_s:10%"], "none.jsonl"),
        (["--longctx-baseline=baseline.jsonl", "--longctx-fail-on=tfft_s:10%"], "did you mean 'ttft_s'"),
        (["--longctx-baseline=baseline.jsonl", "--longctx-fail-on=kv_gib:10%"], "the baseline has no value of kv_gib"),
    ],
)
def test_a_baseline_that_says_nothing_is_refused(pinned, baseline, options, complaint):
    done = pinned([1.0], *options)
    assert done.outcome.ret == 4
    assert complaint in done.text


def test_a_report_is_written_with_the_run(run):
    done = run("--backend=miniature", "-m", "smoke", "--longctx-report=out/report.html", "--longctx-seed=7")
    page = (done.folder / "out" / "report.html").read_text(encoding="utf-8")
    assert "LC-0001" in page
    assert "report: " in done.text
    assert done.results.header["options"] == ["--backend=miniature"]
    (boot,) = done.results.boots
    assert boot["started_s"] > 1e9
    assert all(row["source"] for row in done.results.verdicts)
