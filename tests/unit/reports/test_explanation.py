"""Output for a verdict that fails its test, and for a request that was not served."""

import datetime as dt

import pytest

from pytest_longctx.client.exchange import ENDING_OUTCOMES, Refusal, Usage
from pytest_longctx.findings import verdicts
from pytest_longctx.findings.ask import Ask
from pytest_longctx.observation import Observation
from pytest_longctx.reports.explanation import Setting, exchange_text, of_finding, verdict_text
from tests.unit import factories

SERVED = {"question": "served", "ask": {"prompt_tokens": 100, "output_tokens": 4}}
SETTING = Setting("tiny", again="pytest x.py --backend=vllm")
REFUSED = {"ending": "refused", "arrivals_s": (), "usage": Usage(), "refusal": Refusal(400, "too\n long by far")}


def rows(text):
    """Return the rows of *text* by label; a repeated label has a list."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines()[1:]:
        assert line.startswith("  ")
        assert line[2] != " "
        found.setdefault(line[2:11].strip(), []).append(line[11:])
    return {word: message[0] if len(message) == 1 else message for word, message in found.items()}


def judged(exchange, **finding):
    return verdicts.judge(factories.finding(**{**SERVED, **finding}), exchange.observe())


def test_a_missed_bound_is_told_whole():
    bounds = {"ttft_s": factories.bound(reference=1.0, tolerance="10%", because="three runs differed by so much")}
    text = verdict_text(judged(factories.exchange(), bounds=bounds), SETTING)
    assert text.splitlines()[0] == "TT-0001 broken: it comes up"
    assert rows(text) == {
        "asked": "a prompt of 100 tokens and 4 answer tokens, of tiny",
        "seen": "ttft_s 2 s",
        "allowed": "ttft_s >= 0.9 s and <= 1.1 s (documented 1 s), because three runs differed by so much",
        "checked": "within bounds: outcome serves, prompt_tokens 100 tokens, completion_tokens 4 tokens, cached_share 0",
        "do": "repeat the run on an idle machine and compare it with an earlier run (`longctx compare`); "
        "if the new behaviour is intended, change [bounds.ttft_s] in findings/TT-0001*.toml",
        "again": "pytest x.py --backend=vllm",
    }


def test_a_refusal_has_the_servers_words_and_what_is_known_of_them():
    seen = factories.exchange(**REFUSED).observe()
    seen = Observation(seen.outcome, seen.metrics, seen.phase, "prompt-too-long", "over-length", seen.said)
    verdict = verdicts.judge(factories.finding(**SERVED), seen)
    reported = rows(verdict_text(verdict, Setting("tiny", remedy="a larger --max-model-len")))
    assert (reported["seen"], reported["allowed"]) == ("outcome refuses", "outcome serves")
    assert reported["because"] == '"too long by far"; prompt-too-long: the request exceeds the served context'
    assert reported["do"].startswith("a larger --max-model-len; if the new behaviour is intended")


def test_a_law_has_a_place_to_look_and_no_file_to_change():
    reported = rows(verdict_text(judged(factories.exchange(usage=Usage(99, 4, 0))), SETTING))
    assert reported["seen"] == "prompt_tokens 99 tokens"
    assert reported["allowed"] == "prompt_tokens exactly 100 tokens"
    assert "a BOS token" in reported["do"]
    assert ".toml" not in reported["do"]


def test_an_expected_failure_that_changed_says_how():
    finding = factories.finding(
        question="boot-fails", expect={"outcome": "runs out of memory", "signature": "gpu-oom-kv"}
    )
    reported = rows(verdict_text(verdicts.judge(finding, Observation("serves", phase="boot")), SETTING))
    assert reported["asked"] == "a boot, of tiny"
    assert reported["because"] == "the finding has changed: a clean start instead of gpu-oom-kv"


def test_a_known_failure_that_is_gone_says_what_to_take_out():
    verdict = judged(factories.exchange(), known={"issue": "https://example.invalid/1", "since": dt.date(2026, 1, 2)})
    reported = rows(verdict_text(verdict, SETTING))
    assert "the known failure no longer occurs" in reported["seen"]
    assert reported["do"] == "remove [known] from findings/TT-0001*.toml, and close https://example.invalid/1"


def test_missing_evidence_says_what_was_not_observed():
    verdict = judged(factories.exchange(usage=Usage(100, 4)), bounds={"ttft_s": factories.bound(at_most=3.0)})
    text = verdict_text(verdict, SETTING)
    assert text.startswith("TT-0001 unmeasured: ")
    assert rows(text)["seen"] == "cached_share not observed"
    assert "--longctx-strict" in rows(text)["do"]


def test_many_missed_lines_do_not_fill_the_screen():
    also = [verdicts.Line(f"m{n}", "1", "0", ok=False) for n in range(9)]
    verdict = verdicts.judge(factories.finding(**SERVED), factories.exchange().observe(), also)
    assert rows(verdict_text(verdict, SETTING))["seen"][-1] == "5 more outside their bounds"


def test_a_row_is_one_line_and_ends_but_the_command_is_whole():
    exchange = factories.exchange(**{**REFUSED, "refusal": Refusal(400, "word\n" * 900)})
    again = "pytest " + "x" * 900
    text = verdict_text(judged(exchange), Setting("tiny", again=again))
    assert all(len(line) <= 420 for line in text.splitlines() if "again" not in line)
    assert rows(text)["again"] == again


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        ({"over_limit_tokens": 1, "output_tokens": 1}, "a prompt and 1 answer token, together 1 above max_model_len"),
        ({"over_limit_tokens": 0}, "a prompt and 32 answer tokens, together exactly max_model_len"),
        ({"over_limit_tokens": -5}, "a prompt and 32 answer tokens, together 5 below max_model_len"),
        ({"lengths": [1000, 2000, 4000]}, "prompts of 1,000, 2,000, 4,000 tokens and 32 answer tokens"),
        (
            {"prompt_tokens": 10, "requests": 2560, "concurrency": 512},
            "2,560 prompts of 10 tokens, 512 at once, and 32 answer tokens for each",
        ),
        (
            {"prompt_tokens": 10, "requests": 9, "rate_per_s": 0.5},
            "9 prompts of 10 tokens, 0.5 a second, and 32 answer tokens for each",
        ),
        ({"prompt_tokens": 10, "turns": 3}, "a prompt of 10 tokens and 32 answer tokens, then 2 more turns"),
        ({"task": "gsm8k"}, "the questions of gsm8k"),
        ({}, "prompts of several lengths and 32 answer tokens"),
    ],
)
def test_what_was_asked_is_said_in_words(ask, message):
    finding = factories.finding().model_copy(update={"question": "served", "ask": Ask(**ask)})
    verdict = verdicts.judge(finding, Observation("refuses"))
    assert rows(verdict_text(verdict, SETTING))["asked"] == f"{message}, of tiny"


def test_a_drift_was_asked_of_both_deployments():
    finding = factories.finding(
        question="drift",
        scope={"deployment": ["fp8", "auto"]},
        ask={"against": "auto", "prompt_tokens": 1000, "runs": 50},
        bounds={"drift_ratio": {"unit": "x", "at_most": 3.0}},
    )
    found = verdicts.judge(finding, Observation("serves", {"drift_ratio": 4.0}, "request"))
    asked = rows(verdict_text(found, Setting("fp8")))["asked"]
    assert asked == "the log-probabilities of 4 texts of 1,000 tokens, read 100 times, of fp8, against auto"


def test_a_refused_request_is_told_with_what_would_be_served():
    exchange = factories.exchange(**{**REFUSED, "sent_tokens": 2_000_000, "asked_tokens": 200})
    text = exchange_text(exchange, exchange.observe(), SETTING, limit=65_536)
    assert text.splitlines()[0] == "the request was not served: refused"
    assert rows(text) == {
        "asked": "a prompt of 2,000,000 tokens and 200 answer tokens, of tiny",
        "seen": "refused with HTTP 400 after 4.00 s; no token arrived",
        "allowed": 'a complete answer; ask(..., unserved="return") returns any ending to the test',
        "because": '"too long by far"',
        "do": "a prompt of at most 65,336 tokens, or max_model_len of at least 2,000,200",
        "again": "pytest x.py --backend=vllm",
    }


@pytest.mark.parametrize("ending", [ending for ending in ENDING_OUTCOMES if ending != "complete"])
def test_every_ending_has_something_to_do(ending):
    exchange = factories.exchange(ending=ending, detail="as the wire said")
    reported = rows(exchange_text(exchange, exchange.observe(), SETTING))
    assert reported["seen"] == f"{ending} after 4.00 s; 3 chunks arrived"
    assert reported["because"].startswith('"as the wire said"')
    assert len(reported["do"]) > 20


def test_the_rows_of_one_verdict_are_found_among_those_of_others():
    first = verdict_text(judged(factories.exchange(usage=Usage(99, 4, 0))), SETTING)
    second = first.replace("TT-0001 broken", "TT-0002 broken").replace("99", "98")
    text = f"[gw0] linux\nown words\n\n{first}\n\n{second}\n---- end ----"
    assert of_finding(text, "TT-0002", "broken") == second.partition("\n")[2]
    assert of_finding(text, "TT-0001", "broken") == first.partition("\n")[2]
    assert of_finding(text, "TT-0003", "broken") == ""


def test_reprs_are_short_enough_for_an_assertion():
    long = factories.exchange(arrivals_s=tuple(map(float, range(52, 999))), text="w" * 9999)
    assert repr(long) == "<Exchange of 100 + 4 tokens, complete, TTFT 2.00 s>"
    refused = factories.exchange(**{**REFUSED, "sent_tokens": 9, "asked_tokens": 1})
    assert repr(factories.exchange(ending="deadline", arrivals_s=(), detail="300 s")).endswith(
        "tokens, deadline: '300 s'>"
    )
    assert repr(refused) == "<Exchange of 9 + 1 tokens, refused: 'too\\n long by far'>"
