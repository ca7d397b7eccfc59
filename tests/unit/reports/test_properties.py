import datetime as dt
import json
from collections.abc import Mapping
from xml.sax.saxutils import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_longctx.findings.verdicts import Verdict, judge, out_of_scope
from pytest_longctx.measures import MEASURES
from pytest_longctx.observation import Observation, Outcome
from pytest_longctx.reports import properties
from tests.unit import factories

METRICS = st.dictionaries(st.sampled_from(sorted(MEASURES)), st.none() | st.floats(-1e9, 1e9))
FACTS = st.dictionaries(st.sampled_from(["deployment", "version", "seed", "finding"]), st.text())


def verdict(
    finding_id: str = "TT-0001",
    outcome: Outcome = "serves",
    metrics: Mapping[str, float | None] | None = None,
    said: str = "",
) -> Verdict:
    return judge(factories.finding(id=finding_id), Observation(outcome, metrics or {}, said=said))


@given(METRICS, FACTS, st.sampled_from(["serves", "hangs"]), st.text())
def test_a_verdict_comes_back_from_its_pairs(metrics, facts, outcome, message):
    written = verdict(outcome=outcome, metrics=metrics, said=message)
    (found,) = properties.entries([*properties.server_pairs(facts), *properties.verdict_pairs(written)])
    assert (found.finding, found.verdict, found.why, found.said) == ("TT-0001", written.word, written.why, message)
    assert (found.title, found.status, found.server) == ("it comes up", "confirmed", facts)
    assert found.measured == {
        name: pytest.approx(value, rel=1e-8) for name, value in metrics.items() if value is not None
    }


def test_the_source_and_the_bounds_come_with_the_verdict():
    bounds = {"ttft_s": {"unit": "s", "reference": 2.0, "tolerance": "20%", "runs": 3, "because": "eleven runs"}}
    source = {"document": "a paper", "where": "table 2", "date": dt.date(2026, 1, 2)}
    written = judge(factories.finding(bounds=bounds, source=source), Observation("serves", {"ttft_s": 2.1}))
    (found,) = properties.entries(properties.verdict_pairs(written))
    assert found.source == "a paper, table 2, 2026-01-02"
    assert found.bounds == {"ttft_s": {"reference": 2.0, "tolerance": "20%"}}


@given(st.integers(0, 999_999_999))
def test_a_count_of_tokens_comes_back_exactly(tokens):
    (found,) = properties.entries(list(properties.verdict_pairs(verdict(metrics={"prompt_tokens": tokens}))))
    assert found.measured["prompt_tokens"] == tokens


def test_what_there_is_nothing_to_say_of_has_no_pair():
    names = [name for name, _ in properties.verdict_pairs(verdict(metrics={"load_s": None}))]
    assert not [name for name in names if name.endswith((".why", ".said", ".load_s"))]


def test_several_verdicts_of_one_test_come_back_in_order():
    pairs = [
        *properties.verdict_pairs(verdict("TT-0002", metrics={"load_s": 2.0})),
        *properties.verdict_pairs(verdict("TT-0001", "dies", {"load_s": 1.0})),
    ]
    found = [(each.finding, each.verdict, each.measured) for each in properties.entries(pairs)]
    assert found == [("TT-0002", "holds", {"load_s": 2.0}), ("TT-0001", "broken", {"load_s": 1.0})]


def test_pairs_may_be_read_only_once():
    assert [each.finding for each in properties.entries(properties.verdict_pairs(verdict()))] == ["TT-0001"]


def test_a_finding_out_of_scope_is_a_verdict_with_a_reason():
    (found,) = properties.entries(
        list(properties.verdict_pairs(out_of_scope(factories.finding(), "backend: a is not b")))
    )
    assert (found.verdict, found.why, found.measured) == ("out of scope", "backend: a is not b", {})


def test_pairs_of_others_are_left_alone():
    assert properties.entries([("longctxish", "1"), ("finding", "TT-0001"), (properties.FINDING, "TT-0009")]) == []
    assert properties.rows(properties.BOOT, [("boot", "{}"), ("time", 3)]) == []


def test_every_pair_is_text():
    """JUnit XML can contain only text."""
    pairs = [
        *properties.server_pairs({"seed": "7"}),
        *properties.verdict_pairs(verdict(metrics={"load_s": 0.1})),
        properties.row_pair(properties.BOOT, {}),
    ]
    assert all(isinstance(part, str) for pair in pairs for part in pair)
    assert all(escape(name) == name for name, _ in pairs)


@given(st.lists(st.dictionaries(st.text(), st.none() | st.text() | st.floats(allow_nan=False) | st.booleans())))
def test_boots_come_back_from_their_pairs(boots):
    assert (
        properties.rows(
            properties.BOOT, [("other", 1), *(properties.row_pair(properties.BOOT, boot) for boot in boots)]
        )
        == boots
    )


def test_a_boot_is_one_pair_of_json():
    name, value = properties.row_pair(properties.BOOT, {"outcome": "serves"})
    assert (name, json.loads(value)) == (properties.BOOT, {"outcome": "serves"})
