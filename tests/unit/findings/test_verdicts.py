import datetime as dt
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_longctx.findings.finding import Finding
from pytest_longctx.findings.verdicts import COLD_SHARE, Word, judge, out_of_scope
from pytest_longctx.observation import Observation, Outcome
from tests.unit import factories

KNOWN = {"issue": "#7", "since": dt.date(2026, 1, 2)}
SERVED = {"question": "served", "ask": {"prompt_tokens": 100}}
FIGURES = st.floats(-1e9, 1e9)
FAST = {"ttft_s": {"unit": "s", "at_most": 2.0}}


def seen(outcome: Outcome | None = "serves", /, **parts: Any) -> Observation:
    return Observation(outcome, **parts)


def word(finding: Finding, observation: Observation) -> Word:
    return judge(finding, observation).word


@pytest.mark.parametrize(
    ("changes", "value", "expected"),
    [
        ({}, 2.0, "holds"),
        ({}, 2.1, "broken"),
        ({}, None, "unmeasured"),
        ({"known": KNOWN}, 2.1, "known"),
        ({"known": KNOWN}, 2.0, "broken"),
        ({"known": KNOWN}, None, "unmeasured"),
    ],
)
def test_a_bound_that_is_kept_missed_or_unseen_gives_the_word(changes, value, expected):
    finding = factories.finding(**SERVED, bounds=FAST, **changes)
    verdict = judge(finding, seen(metrics={"ttft_s": value, "cached_share": 0.0}))
    assert verdict.word == expected
    assert bool(verdict) is (expected == "holds")


def test_out_of_scope_is_no_observation_and_not_true():
    verdict = out_of_scope(factories.finding(), "backend: x is not y")
    assert (verdict.word, verdict.why, verdict.observation) == ("out of scope", "backend: x is not y", None)
    assert not verdict


def test_the_words_are_these_five():
    assert set(get_args(Word)) == {"holds", "broken", "unmeasured", "out of scope", "known"}


def test_a_known_failure_that_is_gone_is_broken_and_says_what_to_do():
    verdict = judge(factories.finding(known=KNOWN), seen())
    assert verdict.word == "broken"
    assert verdict.why == "the known failure no longer occurs: remove `known` (#7) from the finding"


@pytest.mark.parametrize("outcome", get_args(Outcome))
@pytest.mark.parametrize("expected", get_args(Outcome))
def test_only_the_expected_outcome_holds(outcome, expected):
    found = word(factories.finding(expect={"outcome": expected}), seen(outcome))
    assert found == ("holds" if outcome == expected else "broken")


@pytest.mark.parametrize(
    ("phase", "signature", "expected"),
    [
        ("load", "oom", "holds"),
        ("start", "oom", "broken"),
        ("load", "other", "broken"),
        (None, "oom", "broken"),
        ("load", None, "broken"),
    ],
)
def test_a_failure_must_come_in_its_phase_and_with_its_signature(phase, signature, expected):
    finding = factories.finding(expect={"outcome": "refuses", "phase": "load", "signature": "oom"})
    assert word(finding, seen("refuses", phase=phase, signature=signature)) == expected


def test_a_phase_and_a_signature_that_were_not_seen_are_said_to_be_missing():
    finding = factories.finding(expect={"outcome": "dies", "phase": "load", "signature": "oom"})
    why = (
        "phase: not seen, wanted load; signature: no known signature, wanted oom "
        "(the finding has changed: another cause, an unknown one instead of oom)"
    )
    assert judge(finding, seen("dies")).why == why


def test_after_another_outcome_nothing_else_is_compared():
    finding = factories.finding(expect={"outcome": "dies", "phase": "load", "signature": "oom"})
    assert [line.measure for line in judge(finding, seen("hangs", phase="start")).lines] == ["outcome"]


def test_a_phase_that_is_not_expected_is_not_looked_at():
    finding = factories.finding(expect={"outcome": "refuses"})
    assert word(finding, seen("refuses", phase="anything", signature="anything")) == "holds"


@given(FIGURES, FIGURES, FIGURES)
def test_a_figure_holds_exactly_inside_its_bounds(low, high, value):
    low, high = sorted((low, high))
    finding = factories.finding(bounds={"load_s": {"unit": "s", "at_least": low, "at_most": high}})
    expected = "holds" if low <= value <= high else "broken"
    assert word(finding, seen(metrics={"load_s": value})) == expected
    assert word(finding, seen(metrics={"load_s": low})) == word(finding, seen(metrics={"load_s": high})) == "holds"
    assert word(finding, seen(metrics={"load_s": None})) == "unmeasured"
    assert word(finding, seen()) == "unmeasured"


@given(FIGURES, FIGURES, FIGURES)
def test_wider_bounds_never_break_what_held(limit, wider, value):
    limit, wider = sorted((limit, wider))
    narrow, wide = (factories.finding(bounds={"load_s": {"unit": "s", "at_most": most}}) for most in (limit, wider))
    if word(narrow, seen(metrics={"load_s": value})) == "holds":
        assert word(wide, seen(metrics={"load_s": value})) == "holds"


def test_a_figure_that_is_no_number_is_broken():
    finding = factories.finding(bounds={"load_s": {"unit": "s", "at_most": 1.0}})
    assert word(finding, seen(metrics={"load_s": float("nan")})) == "broken"


def test_what_was_missed_counts_more_than_what_was_not_seen():
    finding = factories.finding(
        bounds={"load_s": {"unit": "s", "at_most": 1.0}, "boot_s": {"unit": "s", "at_most": 1.0}}
    )
    verdict = judge(finding, seen(metrics={"boot_s": 2.0}))
    assert verdict.word == "broken"
    assert verdict.why == "boot_s: 2 s, wanted <= 1 s"


def test_a_bound_without_limits_only_reports():
    finding = factories.finding(bounds={"load_s": {"unit": "s", "reference": 3.0}})
    verdict = judge(finding, seen(metrics={"load_s": 1e9}))
    assert verdict.word == "holds"
    assert [line.measure for line in verdict.lines] == ["outcome"]


COUNTS = [
    ("prompt_tokens", "sent_tokens"),
    ("completion_tokens", "asked_tokens"),
    ("server_prompt_tokens", "sent_tokens"),
    ("server_completion_tokens", "asked_tokens"),
]


@pytest.mark.parametrize(
    ("sent", "counted", "expected"),
    [
        (100, 100.0, "holds"),
        (100, 99.0, "broken"),
        (100, 101.0, "broken"),
        (100, None, "unmeasured"),
        (None, 7.0, "holds"),
    ],
)
@pytest.mark.parametrize(("law", "sent_as"), COUNTS)
def test_tokens_are_counted_exactly(law, sent_as, sent, counted, expected):
    usage = law.removeprefix("server_")  # counts that the finding does not bound are correct
    observation = seen(metrics={usage: sent, law: counted}, **{sent_as: sent})
    assert word(factories.finding(**SERVED), observation) == expected


@pytest.mark.parametrize(("law", "sent_as"), COUNTS[:2])
def test_a_count_that_the_finding_bounds_itself_is_held_to_that_alone(law, sent_as):
    finding = factories.finding(**SERVED, bounds={law: {"unit": "tokens", "exactly": 6}})
    sent = finding.ask.prompt_tokens
    assert word(finding, seen(metrics={law: 6.0}, **{sent_as: sent})) == "holds"
    assert word(finding, seen(metrics={law: 10.0}, **{sent_as: sent})) == "broken"


@pytest.mark.parametrize(("counter", "expected"), [(6.0, "holds"), (10.0, "broken"), (None, "unmeasured")])
def test_where_another_count_is_documented_both_ledgers_must_have_it(counter, expected):
    """An answer that does not fit is shortened by vLLM: 6 of 10 tokens, by usage and by its counter (VC-0004)."""
    finding = factories.finding(**SERVED, bounds={"completion_tokens": {"unit": "tokens", "exactly": 6}})
    metrics = {"completion_tokens": 6.0, "server_completion_tokens": counter}
    assert word(finding, seen(metrics=metrics, asked_tokens=10)) == expected


def test_a_finding_is_not_judged_by_another_length():
    finding = factories.finding(**SERVED)
    short = (finding.ask.prompt_tokens or 0) - 1
    assert word(finding, seen(metrics={"prompt_tokens": short}, sent_tokens=short)) == "broken"


def test_a_limit_of_its_own_replaces_a_law_and_a_mere_report_does_not():
    finding = factories.finding(**SERVED, bounds={"prompt_tokens": {"unit": "tokens"}})
    sent = finding.ask.prompt_tokens
    assert word(finding, seen(metrics={"prompt_tokens": 1.0}, sent_tokens=sent)) == "broken"


@pytest.mark.parametrize(("share", "expected"), [(0.99, "holds"), (1.01, "broken"), (None, "holds")])
def test_nothing_is_read_faster_than_the_peak(share, expected):
    assert word(factories.finding(**SERVED), seen(metrics={"peak_share": share})) == expected


def test_laws_are_for_requests_that_were_served():
    finding = factories.finding(expect={"outcome": "refuses"})
    observation = seen("refuses", sent_tokens=100, asked_tokens=4, metrics={"prompt_tokens": 3, "cached_share": 1.0})
    assert word(finding, observation) == "holds"


@pytest.mark.parametrize(
    ("share", "bounds", "expected"),
    [
        (0.0, FAST, "holds"),
        (COLD_SHARE, FAST, "holds"),
        (COLD_SHARE + 0.001, FAST, "broken"),
        (None, FAST, "unmeasured"),
        (None, {}, "holds"),
        (0.5, {}, "broken"),
        (None, {"upload_s": {"unit": "s", "at_most": 1.0}}, "holds"),
        (None, {"ttft_s": {"unit": "s", "reference": 3.0}}, "holds"),
        (0.5, {**FAST, "cached_share": {"unit": "", "at_least": 0.4}}, "holds"),
        (0.3, {**FAST, "cached_share": {"unit": "", "at_least": 0.4}}, "broken"),
    ],
)
def test_a_time_is_only_worth_something_where_no_cache_answered(share, bounds, expected):
    metrics = {"cached_share": share, "ttft_s": 1.0, "upload_s": 0.5}
    assert word(factories.finding(**SERVED, bounds=bounds), seen(metrics=metrics)) == expected


@pytest.mark.parametrize(
    ("share", "bounds", "expected"),
    [
        (0.9, {}, "holds"),
        (0.4, {}, "broken"),
        (None, {}, "holds"),
        (None, FAST, "unmeasured"),
        (None, {"warm_speedup": {"unit": "x", "at_least": 2.0}}, "unmeasured"),
        (0.4, {"cached_share": {"unit": "", "at_least": 0.3}}, "holds"),
    ],
)
def test_a_repeated_prompt_must_come_from_the_cache(share, bounds, expected):
    finding = factories.finding(question="repeated", ask={"prompt_tokens": 100}, bounds=bounds)
    metrics = {"cached_share": share, "ttft_s": 1.0, "warm_speedup": 3.0}
    assert word(finding, seen(metrics=metrics)) == expected


@pytest.mark.parametrize(
    ("gap_s", "tokens", "ttft_s", "expected"),
    [
        (0.004, 1_000, 0.025, "holds"),  # vLLM 0.32 on a CPU, as are the next two
        (0.0607, 60_000, 6.80, "holds"),
        (0.1004, 65_530, 5.65, "holds"),
        (0.125, 1_000, 0.02, "holds"),  # the same with other load on its two cores
        (0.3, 1_000, 0.3, "broken"),
        (0.3, 1_000, 4.0, "holds"),
        (30.0, 10_000_000, 60.0, "holds"),
        (50.0, 10_000_000, 60.0, "broken"),
        (-0.05, 1_000, 0.3, "holds"),
        (-0.3, 1_000, 0.3, "broken"),
        (None, 1_000, 0.3, "unmeasured"),
    ],
)
def test_both_clocks_agree_on_the_first_token(gap_s, tokens, ttft_s, expected):
    finding = factories.finding(question="served", ask={"prompt_tokens": tokens})
    metrics = {"prompt_tokens": tokens, "ttft_s": ttft_s, "ttft_gap_s": gap_s}
    assert word(finding, seen(metrics=metrics, sent_tokens=tokens)) == expected


@pytest.mark.parametrize(
    ("load", "expected", "of_a_time"),
    [
        (0.2, "broken", "broken"),
        (1.0, "broken", "broken"),
        (1.2, "unmeasured", "unmeasured"),
        (2.5, "holds", "unmeasured"),
    ],
)
def test_the_clocks_may_differ_more_on_a_loaded_machine(load, expected, of_a_time):
    """Seen: 0.37 s at a load of five on two cores, of a server that answered as on the idle machine."""
    finding = factories.finding(question="served", ask={"prompt_tokens": 4000})
    metrics = {"prompt_tokens": 4000, "ttft_s": 0.66, "ttft_gap_s": 0.373, "host_load": load, "cached_share": 0.0}
    assert word(finding, seen(metrics=metrics, sent_tokens=4000)) == expected
    bounds = {"ttft_s": {"unit": "s", "at_most": 9.0}}
    timed = factories.finding(question="served", ask={"prompt_tokens": 4000}, bounds=bounds)
    assert word(timed, seen(metrics=metrics, sent_tokens=4000)) == of_a_time


def test_no_load_explains_a_stream_that_was_held_for_long():
    finding = factories.finding(question="served", ask={"prompt_tokens": 4000})
    metrics = {"prompt_tokens": 4000, "ttft_s": 0.66, "ttft_gap_s": 30.0, "host_load": 2.5, "cached_share": 0.0}
    assert word(finding, seen(metrics=metrics, sent_tokens=4000)) == "broken"


def test_a_first_token_before_the_servers_is_broken_on_a_loaded_machine_too():
    finding = factories.finding(question="served", ask={"prompt_tokens": 4000})
    metrics = {"prompt_tokens": 4000, "ttft_s": 0.66, "ttft_gap_s": -0.5, "host_load": 3.0, "cached_share": 0.0}
    assert word(finding, seen(metrics=metrics, sent_tokens=4000)) == "broken"


def test_the_load_that_kept_the_clocks_from_being_compared_is_named():
    metrics = {"prompt_tokens": 4000, "ttft_s": 0.66, "ttft_gap_s": 1.05, "host_load": 1.5, "cached_share": 0.0}
    verdict = judge(
        factories.finding(question="served", ask={"prompt_tokens": 4000}), seen(metrics=metrics, sent_tokens=4000)
    )
    assert "1.5 runnable processes for each core" in verdict.why


def test_a_server_without_counters_is_not_asked_for_a_second_ledger():
    assert word(factories.finding(**SERVED), seen(metrics={"prompt_tokens": 100}, sent_tokens=100)) == "holds"


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ({"exactly": 4}, "exactly 4 s"),
        ({"at_least": 1.0}, ">= 1 s"),
        ({"at_most": 1.5}, "<= 1.5 s"),
        ({"at_least": 1.0, "at_most": 2.0}, ">= 1 s and <= 2 s"),
        ({"reference": 2.0, "tolerance": "0.5", "because": "b"}, ">= 1.5 s and <= 2.5 s (documented 2 s)"),
        ({"reference": 2.0, "tolerance": "0", "because": "b"}, "exactly 2 s (documented 2 s)"),
    ],
)
def test_a_line_says_what_was_wanted(content, wanted):
    verdict = judge(factories.finding(bounds={"load_s": {"unit": "s", **content}}), seen(metrics={"load_s": -9.0}))
    assert str(verdict.lines[-1]) == f"load_s: -9 s, wanted {wanted}"


def test_the_reason_quotes_the_server_in_one_short_line():
    message = "first line\n" + "x" * 500
    verdict = judge(factories.finding(), seen("dies", said=message))
    assert verdict.why.startswith('outcome: dies, wanted serves ("first line xxx')
    assert verdict.why.endswith('...")')
    assert len(verdict.why) < 220
    assert judge(factories.finding(), seen("dies", said="short")).why.endswith('("short")')
    assert repr(verdict) == f"TT-0001 broken: {verdict.why}"


def test_what_holds_needs_no_reason():
    verdict = judge(factories.finding(), seen(said="something"))
    assert (verdict.why, verdict.broken, repr(verdict)) == ("", (), "TT-0001 holds")


def test_what_is_unmeasured_names_what_was_not_observed():
    verdict = judge(factories.finding(bounds={"load_s": {"unit": "s", "exactly": 1.0}}), seen())
    assert verdict.why == "load_s: not observed, wanted exactly 1 s"


SCORE = {"accuracy_strict": {"unit": "", "reference": 0.9, "stderr": 0.03, "sigmas": 2, "because": "sampled"}}
ASKED = {"question": "accuracy", "ask": {"task": "gsm8k"}, "bounds": SCORE}


@pytest.mark.parametrize(
    ("value", "stderr", "expected"),
    [
        (0.81, 0.04, "holds"),  # 0.9 - 2 sqrt(0.03^2 + 0.04^2) = 0.8
        (0.99, 0.04, "holds"),
        (0.79, 0.04, "broken"),
        (0.81, 0.0, "broken"),
        (0.81, None, "unmeasured"),
        (None, 0.04, "unmeasured"),
    ],
)
def test_a_score_is_judged_with_both_standard_errors(value, stderr, expected):
    metrics = {"accuracy_strict": value, "accuracy_strict_stderr": stderr}
    assert word(factories.finding(**ASKED), seen(metrics=metrics)) == expected


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_a_less_certain_score_breaks_no_more(value, stderr, more):
    stderr, more = sorted((stderr, more))
    certain, uncertain = (
        word(factories.finding(**ASKED), seen(metrics={"accuracy_strict": value, "accuracy_strict_stderr": error}))
        for error in (stderr, more)
    )
    assert uncertain in ("holds", certain)


def test_nothing_observed_holds_nothing_and_says_why():
    verdict = judge(factories.finding(**ASKED), seen(None, said="lm-eval is not installed"))
    assert verdict.word == "unmeasured"
    assert verdict.why == 'outcome: not observed, wanted serves ("lm-eval is not installed")'
    assert word(factories.finding(), seen(None)) == "unmeasured"


CHANGED = [
    (seen("serves"), "a clean start instead of oom"),
    (seen("hangs"), "a timeout instead of oom"),
    (seen("is not admitted"), "a timeout instead of oom"),
    (seen("dies", signature="worker-died", kind="host-oom"), "another cause, worker-died instead of oom"),
    (seen("dies", kind="killed"), "another cause, killed instead of oom"),
    (seen("dies"), "another cause, an unknown one instead of oom"),
    (seen("runs out of memory", signature="sampler"), "another cause, sampler instead of oom"),
]


@pytest.mark.parametrize(("observation", "change"), CHANGED)
def test_a_documented_failure_that_changed_says_which_way(observation, change):
    """A clean start, a timeout and another cause are three different results, and each needs another action."""
    expect = {"outcome": "runs out of memory", "signature": "oom"}
    verdict = judge(factories.finding(question="boot-fails", expect=expect), observation)
    assert verdict.word == "broken"
    assert verdict.why.endswith(f"(the finding has changed: {change})")


def test_a_refusal_that_is_gone_is_a_request_that_is_served():
    finding = factories.finding(question="over-limit", ask={"over_limit_tokens": 1}, expect={"outcome": "refuses"})
    why = "outcome: serves, wanted refuses (the finding has changed: it is served instead of 'refuses')"
    assert judge(finding, seen("serves")).why == why


def test_what_was_to_be_served_and_failed_is_no_documented_failure():
    assert judge(factories.finding(**SERVED), seen("dies", kind="killed")).why == "outcome: dies, wanted serves"


@pytest.mark.parametrize(
    ("busy", "ttft_s", "message"),
    [(0.47, 107.5, True), (0.95, 61.5, False), (0.75, 61.5, False), (0.47, 9.9, False), (None, 61.5, False)],
)
def test_devices_that_waited_are_spoken_of_whatever_the_word(busy, ttft_s, message):
    observation = seen(metrics={"ttft_s": ttft_s, "device_busy_share": busy})
    verdict = judge(factories.finding(), observation, remark="and more")
    assert (verdict.word, "only 47% of the time" in verdict.why, "and more" in verdict.why) == ("holds", message, True)
