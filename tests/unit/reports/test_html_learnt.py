"""Documented, predicted and measured side by side."""

import pytest

from pytest_longctx.reports.html.learnt import learnt, limits, room, thinnest
from tests.unit.factories import booted, results, verdict


def bounded(finding="TT-0001", measure="ttft_s", value=1.0, **bound):
    return {**verdict(finding, **{measure: value}), "bounds": {measure: bound}}


def test_a_figure_has_its_three_sources_and_their_differences():
    boot = booted(figures={"concurrency": 2.0}, predicted={"concurrency": 2.2, "terms": []})
    row = bounded(measure="concurrency", value=2.0, reference=2.5, tolerance="40%")
    (found,) = learnt(results(row, boots=[boot]))
    assert found.cells() == ("2.5x", "2.2x", "2x", "-20 %", "+10 %", "50 %")
    assert found.disagrees


@pytest.mark.parametrize(
    ("predicted", "logged", "disagrees"), [(0.01, 1.0, True), (1.0, 1.03, False), (0.002, 0.006, False)]
)
def test_a_prediction_that_disagrees_with_the_log_is_flagged(predicted, logged, disagrees):
    terms = [{"name": "KV pool", "size_bytes": predicted * 2**30, "host": False}]
    (found,) = learnt(results(boots=[booted(figures={"kv_available_gib": logged}, predicted={"terms": terms})]))
    assert found.disagrees is disagrees


def test_a_prediction_with_bounds_agrees_within_them():
    term = {"name": "KV pool", "size_bytes": 2**30, "host": False, "bounds_bytes": [2**29, 2**31]}
    (inside,) = learnt(results(boots=[booted(figures={"kv_available_gib": 1.9}, predicted={"terms": [term]})]))
    (outside,) = learnt(results(boots=[booted(figures={"kv_available_gib": 2.1}, predicted={"terms": [term]})]))
    assert (inside.disagrees, outside.disagrees) == (False, True)


def test_the_least_room_comes_first_of_what_scatters():
    rows = [bounded("TT-0001", value=0.9, at_most=1.0), bounded("TT-0002", value=0.5, at_most=1.0)]
    count = bounded("TT-0003", "requests", 5.0, at_least=5.0)
    missed = {**bounded("TT-0004", value=2.0, at_most=1.0), "verdict": "broken"}
    found = thinnest(learnt(results(*rows, count, missed)))
    assert [(each.finding, each.room) for each in found] == [("TT-0001", pytest.approx(0.1)), ("TT-0002", 0.5)]


def test_a_repeated_finding_is_one_row_by_its_median():
    rows = [bounded(value=value, at_most=2.0) for value in (1.0, 1.2, 9.0)]
    (found,) = learnt(results(*rows))
    assert found.measured == 1.2


def test_an_exact_count_is_no_figure_to_learn():
    assert learnt(results(bounded(measure="miscounted_prompts", value=0.0, exactly=0.0))) == []


def test_bounds_of_zero_leave_no_share():
    assert room(1.0, None, 0.0) is None
    assert room(1.0, None, None) is None
    assert limits({"reference": 0.0, "tolerance": "5%"}) == (0.0, 0.0)
