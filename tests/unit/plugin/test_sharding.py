from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_longctx.errors import ResultsError, UsageError
from pytest_longctx.plugin.sharding import Shard, fingerprint, split
from pytest_longctx.reports import analysis, results
from pytest_longctx.reports.results import green, merge
from tests.unit import factories

COSTS = st.dictionaries(st.text(max_size=8), st.floats(0, 1e6), max_size=30)
COUNTS = st.integers(1, 9)


@given(COSTS, COUNTS)
def test_the_shards_are_the_whole_and_share_nothing(costs, count):
    parts = split(costs, count)
    assert set(parts) == set(costs)
    assert set(parts.values()) <= set(range(1, count + 1))


@given(COSTS, COUNTS)
def test_no_shard_takes_longer_than_an_even_share_and_the_dearest_thing(costs, count):
    loads = dict.fromkeys(range(1, count + 1), 0.0)
    for name, part in split(costs, count).items():
        loads[part] += costs[name]
    assert max(loads.values()) <= (sum(costs.values()) / count + max(costs.values(), default=0)) * (1 + 1e-9)


@given(COSTS, COUNTS, st.randoms())
def test_the_split_hangs_on_nothing_but_names_and_costs(costs, count, chance):
    shuffled = list(costs.items())
    chance.shuffle(shuffled)
    assert split(dict(shuffled), count) == split(costs, count)


def test_things_that_cost_nothing_are_spread_too():
    assert sorted(split(dict.fromkeys("abcd", 0.0), 4).values()) == [1, 2, 3, 4]


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "1/", "a/b", "1/0", "1/2:", "-1/2", "1/4 "])
def test_what_is_no_shard_is_refused(text):
    with pytest.raises(UsageError, match="write K/N"):
        Shard.parse(text)


def test_a_shard_may_name_a_file_of_times():
    assert Shard.parse("2/3:history/baseline.jsonl") == Shard(2, 3, Path("history/baseline.jsonl"))


def test_a_fingerprint_tells_splits_and_tests_apart():
    prints = {
        fingerprint({"a": 1, "b": 2}, ["x"]),
        fingerprint({"a": 2, "b": 1}, ["x"]),
        fingerprint({"a": 1, "b": 2}, ["x", "y"]),
    }
    assert len(prints) == 3
    assert fingerprint({"b": 2, "a": 1}, ["y", "x"]) == fingerprint({"a": 1, "b": 2}, ["x", "y"])


def test_time_is_boots_and_tests_of_a_deployment():
    run = factories.results(
        factories.verdict(),
        factories.verdict("TT-0002"),
        boots=[factories.booted(), factories.booted("other", seconds=5.0)],
    )
    assert analysis.spent_s(run) == {"tiny": 4.0, "other": 5.0}


def part(shard, *verdicts, split="aa", **header):
    """Return one part of a run."""
    run = factories.results(*verdicts, boots=[factories.booted()])
    run.header.update(header)
    run.footer["shard"] = {"shard": shard, "split": split, "whole_judges": True}
    return run


def test_merged_shards_read_like_one_run(tmp_path):
    one, two = (
        part("1/2", factories.verdict(), schema=1),
        part("2/2", factories.verdict("TT-0002", word="broken"), started="2026-01-01T00:00:00+00:00"),
    )
    two.footer["exit_code"] = 1
    whole = merge({"a": one, "b": two})
    assert [row["finding"] for row in whole.verdicts] == ["TT-0001", "TT-0002"]
    assert whole.header["started"] == "2026-01-01T00:00:00+00:00"
    assert whole.header["merged"] == ["a", "b"]
    assert (whole.footer["exit_code"], whole.footer["verdicts"]) == (1, {"holds": 1, "broken": 1})
    results.write(whole, tmp_path / "out" / "whole.jsonl")
    again = results.read(tmp_path / "out" / "whole.jsonl")
    assert again == whole


@pytest.mark.parametrize(
    ("parts", "complaint"),
    [
        ((part("1/3"), part("3/3")), "shards are missing: 2/3"),
        ((part("1/2"), part("2/2", split="bb")), "come from different splits"),
        ((part("1/2"), part("2/2", hardware="8xH200")), "hardware differs: 'cpu' and '8xH200'"),
        ((part("1/2"), part("2/2", conditions={"longctx": "9"})), "conditions differs"),
        ((part("1/2", factories.verdict()), part("2/2", factories.verdict())), "both hold TT-0001"),
        ((part("1/1"), factories.results()), "these files are not shards: 1"),
    ],
)
def test_what_is_no_whole_is_refused(parts, complaint):
    with pytest.raises(ResultsError, match=complaint):
        merge({str(i): each for i, each in enumerate(parts)})


@pytest.mark.parametrize(
    ("word", "code", "is_green"),
    [("holds", 0, True), ("known", 0, True), ("holds", 1, False), ("out of scope", 0, False), ("unmeasured", 0, False)],
)
def test_a_whole_is_green_where_something_was_judged_and_no_part_was_red(word, code, is_green):
    run = part("1/1", factories.verdict(word=word))
    run.footer["exit_code"] = code
    assert green(merge({"a": run})) is is_green
