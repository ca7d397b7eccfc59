from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_longctx.findings.verdicts import WORST_FIRST, Word
from pytest_longctx.reports.properties import Entry
from pytest_longctx.reports.terminal import COLOURS, table, tally

ENTRIES = st.lists(
    st.builds(
        Entry,
        finding=st.from_regex(r"[A-Z]{2,4}-[0-9]{4}", fullmatch=True),
        verdict=st.sampled_from(WORST_FIRST),
        title=st.text(),
        why=st.text(),
        measured=st.dictionaries(st.just("ttft_s"), st.floats(0, 1e6)),
        server=st.dictionaries(st.just("deployment"), st.text()),
    )
)


def line(entry: Entry) -> str:
    ((found, _),) = table([entry])
    return found


def listed(entries):
    """Return the findings that a table lists individually."""
    return [entry for entry in entries if entry.verdict != "out of scope"]


def test_every_verdict_has_its_place_and_colour():
    assert set(WORST_FIRST) == set(COLOURS) == set(get_args(Word))


@given(ENTRIES)
def test_each_finding_has_one_line_of_at_most_80_columns(entries):
    lines = [each for each, _ in table(listed(entries))]
    assert len(lines) == len(listed(entries))
    assert all(len(each.splitlines()) == 1 and len(each) <= 80 for each in lines)


@given(ENTRIES)
def test_the_worst_stand_first_in_their_colour(entries):
    colours = [colour for _, colour in table(listed(entries))]
    assert colours == [COLOURS[word] for word in WORST_FIRST for entry in listed(entries) if entry.verdict == word]


@given(ENTRIES)
def test_what_is_out_of_scope_is_told_once_for_each_reason(entries):
    rows = [each for each, colour in table(entries) if colour == COLOURS["out of scope"]]
    outside = [entry for entry in entries if entry.verdict == "out of scope"]
    assert len(rows) == len({entry.why for entry in outside})
    assert sum(int(row.split()[0]) for row in rows) == len(outside)
    assert all(len(row) <= 80 and len(row.splitlines()) == 1 for row in rows)


@given(ENTRIES)
def test_quiet_tells_only_what_is_not_as_it_should_be(entries):
    bad = [entry for entry in entries if entry.verdict in ("broken", "unmeasured", "known")]
    assert len(list(table(entries, -1))) == len(bad)


@given(ENTRIES)
def test_verbose_leaves_no_word_out(entries):
    lines = [each for each, _ in table(entries, 1)]
    assert all(len(each) <= 80 for each in lines)
    reported = "".join("".join(lines).split())
    for entry in entries:
        assert "".join((entry.why or entry.title).split()) in reported


def test_a_finding_on_two_deployments_says_which_is_which():
    entries = [Entry("TT-0001", "holds", title="t", server={"deployment": name}) for name in "ab"]
    assert [each.split()[2] for each, _ in table(entries)] == ["a:", "b:"]


@pytest.mark.parametrize("name", ["TT-0001", "TTT-0001", "TTTTTTTT-0001"])
@pytest.mark.parametrize("word", [word for word in WORST_FIRST if word != "out of scope"])
def test_id_and_verdict_stand_apart(name, word):
    assert line(Entry(name, word, title="a title")).split() == [name, *word.split(), "a", "title"]


def test_equals_are_sorted_by_deployment_and_then_by_finding():
    entries = [
        Entry("TT-0003", "holds", server={"deployment": "b"}),
        Entry("TT-0001", "holds", server={"deployment": "b"}),
        Entry("TT-0002", "holds", server={"deployment": "a"}),
        Entry("TT-0009", "holds"),
    ]
    assert [each.split()[0] for each, _ in table(entries)] == ["TT-0009", "TT-0002", "TT-0001", "TT-0003"]


@pytest.mark.parametrize(
    ("entry", "rest"),
    [
        (Entry("TT-0001", "holds", title="a title"), "a title"),
        (Entry("TT-0001", "holds", title="a title", measured={"ttft_s": 0.5}), "TTFT 0.50 s: a title"),
        (Entry("TT-0001", "broken", title="a title", why="a reason"), "a reason"),
        (Entry("TT-0001", "broken", title="a title", why="a reason", measured={"ttft_s": 0.5}), "a reason"),
        (Entry("TT-0001", "broken", why="a\nreason"), "a reason"),
    ],
)
def test_the_rest_of_a_line_is_the_reason_or_what_holds_and_how_soon(entry, rest):
    words = f"{entry.finding} {entry.verdict}"
    assert line(entry).split() == [*words.split(), *rest.split()]
    assert line(entry).endswith(rest)


def test_a_long_line_ends_in_dots():
    room = 80 - len(line(Entry("TT-0001", "broken")))
    assert line(Entry("TT-0001", "broken", why="x" * room)).endswith("xxx")
    assert line(Entry("TT-0001", "broken", why="x" * (room + 1))).endswith("xxx...")


@given(ENTRIES)
def test_the_tally_adds_up(entries):
    message = [part.split(" ", 1) for part in tally(entries).split(", ") if part]
    assert sum(int(number) for number, _ in message) == len(entries)
    assert [word for _, word in message] == [
        word for word in WORST_FIRST if any(each.verdict == word for each in entries)
    ]
