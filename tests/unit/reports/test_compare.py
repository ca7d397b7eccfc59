from pathlib import Path

import pytest

from pytest_longctx import read_results
from pytest_longctx.errors import UsageError
from pytest_longctx.reports.analysis import LAW, CaseKey, Samples, cold, gather
from pytest_longctx.reports.compare import Gate, Limit, compare, limits, noise_of, page, worse_by
from tests.unit.factories import results, verdict

REAL = Path(__file__).parents[3] / "docs/results/vllm-0.32.0-cpu/results.jsonl"


def words(before, after):
    """Return the result for each figure."""
    return {(change.case.finding, change.measure): change.word for change in compare(before, after)}


def test_a_real_run_is_the_same_as_itself():
    run = read_results(REAL)
    found = compare(run, run)
    assert {change.word for change in found} == {"same"}
    assert {change.case.finding for change in found} >= {"LC-0002", "VC-0002", LAW}
    assert not Gate.of(run, "ttft_s:0%, law_quadratic_s:0%").missed(run)


def test_new_gone_changed_and_same_are_told_apart():
    before = results(verdict("TT-0001", ttft_s=1.0), verdict("TT-0002"), verdict("TT-0003", ttft_s=1.0, tpot_s=1.0))
    after = results(verdict("TT-0001", ttft_s=1.05), verdict("TT-0004"), verdict("TT-0003", word="broken", ttft_s=1.2))
    assert words(before, after) == {
        ("TT-0001", "verdict"): "same",
        ("TT-0001", "ttft_s"): "same",
        ("TT-0002", "verdict"): "gone",
        ("TT-0003", "verdict"): "changed",
        ("TT-0003", "ttft_s"): "changed",
        ("TT-0003", "tpot_s"): "gone",
        ("TT-0004", "verdict"): "new",
    }


def test_deployments_are_not_mixed_up_and_what_is_out_of_scope_was_not_there():
    before = results(verdict(deployment="a", ttft_s=1.0), verdict(deployment="b", word="out of scope"))
    after = results(verdict(deployment="a", ttft_s=1.0), verdict(deployment="b", ttft_s=9.0))
    assert {(change.case.deployment, change.word) for change in compare(before, after)} == {("a", "same"), ("b", "new")}


@pytest.mark.parametrize(
    ("measure", "before", "after", "expected"),
    [
        ("ttft_s", 1.0, 1.5, 0.5),
        ("ttft_s", 1.0, 0.5, -0.5),
        ("decode_tokens_per_s", 100.0, 80.0, 0.2),
        ("concurrency", 2.0, 1.0, 0.5),
        ("law_quadratic_s", 2e-12, 3e-12, 0.5),
        ("weights_gib", 10.0, 9.0, 0.1),
        ("miscounted_prompts", 0.0, 1.0, float("inf")),
        ("miscounted_prompts", 0.0, 0.0, 0.0),
    ],
)
def test_worse_depends_on_the_figure(measure, before, after, expected):
    assert worse_by(measure, before, after) == pytest.approx(expected)


def test_noise_is_seen_before_it_is_tolerated_before_it_is_assumed():
    bounds = {"ttft_s": {"reference": 2.0, "tolerance": "20%"}, "boot_s": {"reference": 50.0, "tolerance": "5"}}
    repeated = Samples(values={"ttft_s": [1.0, 1.0, 1.03]}, bounds=bounds)
    twice = Samples(values={"ttft_s": [1.0, 1.9]}, bounds=bounds)
    assert str(noise_of("ttft_s", twice, repeated)) == "3 % (repeats)"
    assert noise_of("ttft_s", twice) == (0.2, "the finding's tolerance")
    assert noise_of("boot_s", twice) == (0.1, "the finding's tolerance")
    assert noise_of("tpot_s", twice) == (0.1, "default")
    assert noise_of("weights_gib", twice) == (0.01, "default")


def test_the_law_is_compared_with_the_noise_of_its_own_lengths():
    def run(factor, *, odd=1.0):
        lengths = (1_000, 10_000, 100_000, 1_000_000)
        rows = [(n, (1e-5 * n + factor * 1e-10 * n * n) * (odd if n == 10_000 else 1)) for n in lengths]
        return results(*(verdict(f"TT-{i:04}", ttft_s=t, prompt_tokens=n) for i, (n, t) in enumerate(rows)))

    assert words(run(1), run(1.1))[LAW, "law_quadratic_s"] == "changed"
    assert words(run(1), run(1.1))[LAW, "law_linear_s"] == "same"
    noise = gather(run(1, odd=1.5))[CaseKey(LAW, "tiny")].noise
    assert noise["law_linear_s"] > 0.1


def test_rounding_is_no_change():
    def run(factor):
        rows = [(n, factor * (1e-5 * n + 1e-10 * n * n)) for n in (1_000, 10_000, 100_000, 1_000_000)]
        return results(*(verdict(f"TT-{i:04}", ttft_s=t, prompt_tokens=n) for i, (n, t) in enumerate(rows)))

    assert words(run(1), run(1 + 1e-12))[LAW, "law_linear_s"] == "same"
    assert words(run(1), run(1 + 1e-6))[LAW, "law_linear_s"] == "changed"


def test_a_cached_prompt_is_no_reading_of_the_law():
    rows = (
        verdict(ttft_s=1.0, prompt_tokens=10, cached_share=0.5),
        verdict(ttft_s=1.0, prompt_tokens=20, warm_speedup=2.0),
    )
    assert cold(results(*rows)) == {}


def test_limits_are_read_as_typed():
    assert limits("ttft_s:12.5%") == (Limit("ttft_s", 0.125),)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("tfft_s:10%", "did you mean 'ttft_s'"),
        ("ttft_s", "such as ttft_s:10%"),
        ("ttft_s:0.1", "such as"),
        ("ttft_s:x%", "such as"),
    ],
)
def test_limits_that_mean_nothing_are_refused(text, complaint):
    with pytest.raises(UsageError, match=complaint):
        limits(text)


def missed(limit, before, after):
    return [f"{case.finding} {line}" for case, line in Gate.of(before, limit).missed(after)]


def test_the_gate_names_what_is_over_its_limit():
    before, after = results(verdict(ttft_s=1.0)), results(verdict(ttft_s=1.15))
    assert missed("ttft_s:20%", before, after) == []
    assert missed("ttft_s:10%", before, after) == [
        "TT-0001 ttft_s: 1.15 s, +15 % worse, wanted at most 10 % worse than 1 s (baseline)"
    ]
    assert missed("ttft_s:10%", after, before) == []


def test_noise_that_was_seen_widens_a_limit_and_noise_that_is_assumed_does_not():
    noisy = results(*(verdict(ttft_s=value) for value in (0.9, 1.0, 1.3)))
    assert missed("ttft_s:1%", noisy, results(verdict(ttft_s=1.25))) == []
    assert missed("ttft_s:1%", noisy, results(verdict(ttft_s=1.35)))
    assert missed("ttft_s:1%", results(verdict(ttft_s=1.0)), results(verdict(ttft_s=1.05)))


def test_a_figure_that_is_gone_is_over_any_limit():
    (line,) = missed("ttft_s:10%", results(verdict(ttft_s=1.0)), results(verdict()))
    assert "not observed" in line


def test_other_hardware_is_no_baseline():
    other = verdict(ttft_s=1.0)
    other["server"] = {"deployment": "tiny", "hardware": "8xH200"}
    (line,) = missed("ttft_s:10%", results(other), results(verdict(ttft_s=1.0)))
    assert line == "TT-0001 baseline: of 8xH200, wanted of cpu"


def test_a_gate_that_would_compare_nothing_is_refused():
    run = results(verdict(ttft_s=1.0))
    with pytest.raises(UsageError, match="the baseline has no value of tpot_s"):
        Gate.of(run, "tpot_s:1%")
    with pytest.raises(UsageError, match="no finding was judged in both runs"):
        Gate.of(run, "ttft_s:1%").missed(results(verdict("TT-0002", ttft_s=1.0)))


def test_the_markdown_shows_what_changed_and_counts_the_rest():
    before, after = results(verdict(ttft_s=1.0, tpot_s=1.0)), results(verdict(ttft_s=1.2, tpot_s=1.0))
    lines = list(page(before, after, compare(before, after), Gate.of(before, "ttft_s:10%").missed(after)))
    assert lines[0] == "## 1 changed, 0 gone, 0 new, 2 same"
    assert "- **TT-0001** tiny: ttft_s: 1.2 s, +20 % worse, wanted at most 10 % worse than 1 s (baseline)" in lines
    assert lines[-1] == "| TT-0001 | tiny | `ttft_s` | changed | 1 s | 1.2 s | +20 % | 10 % (default) |"
