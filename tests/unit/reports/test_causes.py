"""Verdicts that fail for one cause form one group."""

import pytest

from pytest_longctx.reports.causes import Key, causes, explained, key, missed, quoted, rows_of, sentence, unquoted
from tests.unit.factories import booted, results, verdict


def broken(finding, why, deployment="tiny", **more):
    return {**verdict(finding, deployment, "broken"), "why": why, **more}


@pytest.mark.parametrize(
    ("whys", "kind"),
    [
        (
            (
                "prompt_tokens: 7 tokens, wanted exactly 9 tokens",
                "miscounted_prompts: 2 requests, wanted exactly 0 requests",
            ),
            "prompt count",
        ),
        (
            (
                "completion_tokens: 7 tokens, wanted exactly 9 tokens",
                "miscounted_answers: 2 requests, wanted exactly 0 requests",
            ),
            "answer count",
        ),
        (("outcome: dies, wanted serves", "outcome: disconnects, wanted serves"), "server down"),
        (("outcome: refuses, wanted serves", "claim_shortfall_tokens: 9 tokens, wanted exactly 0 tokens"), "limit"),
        (("cached_share: 0.9, wanted <= 0.01", "cached_share_before: 0, wanted >= 0.5"), "cache"),
        (("ttft_s: 9 s, wanted <= 3 s", "decode_tokens_per_s: 1 tokens/s, wanted >= 3 tokens/s"), "speed"),
        (("server_prompt_tokens: not observed, wanted exactly 3 tokens", "x: not observed, wanted 1"), "not observed"),
    ],
)
def test_one_law_of_one_server_is_one_cause(whys, kind):
    (found,) = causes(results(*(broken(f"TT-{i}", why) for i, why in enumerate(whys))))
    assert found.key == Key(kind, "tiny")
    assert found.findings == ["TT-0", "TT-1"]


def test_unlike_causes_and_unlike_servers_stay_apart():
    rows = [
        broken("TT-0001", "outcome: hangs, wanted serves"),
        broken("TT-0002", "outcome: fails, wanted serves"),
        broken("TT-0003", "needles_found: 1 needles, wanted >= 3 needles"),
        broken("TT-0004", "kv_bits: 1 bits, wanted >= 3 bits"),
        broken("TT-0005", "outcome: hangs, wanted serves", "other"),
        broken("TT-0006", "something that no rule knows"),
    ]
    assert [len(found.rows) for found in causes(results(*rows))] == [1] * 6


def test_a_failed_boot_is_the_cause_of_all_that_needed_it():
    boot = booted(
        outcome="dies", explained="tiny did not become ready\n  because  the process exited with code 3; unknown"
    )
    rows = [broken("TT-0001", "outcome: dies, wanted serves"), broken("TT-0002", "allocation_gib: 2 GiB, wanted 4 GiB")]
    (found,) = causes(results(*rows, verdict("TT-0003", "other"), boots=[boot, booted("other")]))
    assert found.sentence == "tiny does not boot: it dies (the process exited with code 3)"
    assert found.findings == ["TT-0001", "TT-0002"]


def test_a_boot_that_succeeded_later_is_no_cause():
    boots = [booted(outcome="dies"), booted()]
    (found,) = causes(results(broken("TT-0001", "ttft_s: 9 s, wanted <= 3 s"), boots=boots))
    assert found.boot is None


def test_the_lead_is_one_request_rather_than_a_summary_of_many():
    rows = [
        broken("TT-0001", "miscounted_prompts: 20 requests, wanted exactly 0 requests"),
        broken("TT-0002", "prompt_tokens: 750 tokens, wanted exactly 1,000 tokens"),
    ]
    (found,) = causes(results(*rows))
    assert found.findings == ["TT-0002", "TT-0001"]
    assert "(750 tokens, allowed exactly 1,000 tokens)" in found.sentence


def test_the_worst_and_the_largest_come_first():
    rows = [
        {**broken("TT-0001", "x: not observed, wanted 1", "a"), "verdict": "unmeasured"},
        broken("TT-0002", "ttft_s: 9 s, wanted <= 3 s", "b"),
        *(broken(f"TT-001{i}", "ttft_s: 9 s, wanted <= 3 s", "c") for i in range(3)),
    ]
    assert [(each.word, each.key.deployment) for each in causes(results(*rows))] == [
        ("broken", "c"),
        ("broken", "b"),
        ("unmeasured", "a"),
    ]


def test_a_message_of_the_server_is_no_bound():
    why = "outcome: refuses, wanted serves (\"x: 3, wanted 4 ('y')\"); predicted to fit"
    assert missed(why)[0] == ("outcome", "refuses", "serves; predicted to fit")
    assert quoted(why) == "x: 3, wanted 4 ('y')"
    assert unquoted(why) == "outcome: refuses, wanted serves; predicted to fit"


@pytest.mark.parametrize("why", ["", ":", "a: b", ", wanted ", "x" * 10_000, 'x ("', "a: " * 3_000 + ", wanted "])
def test_any_reason_has_a_cause(why):
    assert sentence(key(why, "tiny"), missed(why))


def test_rows_come_from_the_test_else_from_the_reason():
    told = "TT-0001 broken: it\n  asked    a boot\n  seen     it dies\n  log      a.log, its last lines:\n             one\n  again    cmd"
    (found,) = causes(results(broken("TT-0001", "outcome: dies, wanted serves", explained=told)))
    rows = rows_of(found, {"backend": "vllm", "seed": 7})
    assert rows[:3] == [("asked", "a boot"), ("seen", "it dies"), ("log", "a.log, its last lines:\none")]
    assert rows[3][1].startswith("pytest ")
    (old,) = causes(results(broken("TT-0001", 'ttft_s: 9 s, wanted <= 3 s ("slow")')))
    assert rows_of(old, {})[:3] == [("seen", "ttft_s 9 s"), ("allowed", "ttft_s <= 3 s"), ("because", "slow")]


def test_an_explanation_of_foreign_text_is_read_without_an_error():
    assert explained("") == []
    assert explained("a\n\n  \n   x\n  because\n  because  y") == [("because", "y")]
