from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_longctx.findings.verdicts import WORST_FIRST, Word
from pytest_longctx.reports.causes import Key, reason
from pytest_longctx.reports.properties import Entry
from pytest_longctx.reports.terminal import COLOURS, causes, claims, table, tally

ENTRIES = st.lists(
    st.builds(
        Entry,
        finding=st.from_regex(r"[A-Z]{2,4}-[0-9]{4}", fullmatch=True),
        verdict=st.sampled_from(WORST_FIRST),
        title=st.text(),
        why=st.text(),
        measured=st.dictionaries(st.just("ttft_s"), st.floats(0, 1e6)),
        server=st.fixed_dictionaries({"deployment": st.text()}),
    )
)


def entry_of(finding: str, verdict: str, server: dict[str, str] | None = None, **more: Any) -> Entry:
    """Return an entry about a server; without one it would be a published claim."""
    return Entry(finding, verdict, server={"deployment": ""} if server is None else server, **more)


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
    assert len(rows) == len({reason(entry.why) for entry in outside})
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
    entries = [entry_of("TT-0001", "holds", title="t", server={"deployment": name}) for name in "ab"]
    assert [each.split()[2] for each, _ in table(entries)] == ["a:", "b:"]


@pytest.mark.parametrize("name", ["TT-0001", "TTT-0001", "TTTTTTTT-0001"])
@pytest.mark.parametrize("word", [word for word in WORST_FIRST if word != "out of scope"])
def test_id_and_verdict_stand_apart(name, word):
    assert line(entry_of(name, word, title="a title")).split() == [name, *word.split(), "a", "title"]


def test_equals_are_sorted_by_deployment_and_then_by_finding():
    entries = [
        entry_of("TT-0003", "holds", server={"deployment": "b"}),
        entry_of("TT-0001", "holds", server={"deployment": "b"}),
        entry_of("TT-0002", "holds", server={"deployment": "a"}),
        entry_of("TT-0009", "holds"),
    ]
    assert [each.split()[0] for each, _ in table(entries)] == ["TT-0009", "TT-0002", "TT-0001", "TT-0003"]


@pytest.mark.parametrize(
    ("entry", "rest"),
    [
        (entry_of("TT-0001", "holds", title="a title"), "a title"),
        (entry_of("TT-0001", "holds", title="a title", measured={"ttft_s": 0.5}), "TTFT 0.50 s: a title"),
        (entry_of("TT-0001", "broken", title="a title", why="a reason"), "a reason"),
        (entry_of("TT-0001", "broken", title="a title", why="a reason", measured={"ttft_s": 0.5}), "a reason"),
        (entry_of("TT-0001", "broken", why="a\nreason"), "a reason"),
    ],
)
def test_the_rest_of_a_line_is_the_reason_or_what_holds_and_how_soon(entry, rest):
    words = f"{entry.finding} {entry.verdict}"
    assert line(entry).split() == [*words.split(), *rest.split()]
    assert line(entry).endswith(rest)


def test_a_long_line_ends_in_dots():
    room = 80 - len(line(entry_of("TT-0001", "broken")))
    assert line(entry_of("TT-0001", "broken", why="x" * room)).endswith("xxx")
    assert line(entry_of("TT-0001", "broken", why="x" * (room + 1))).endswith("xxx...")


@given(ENTRIES)
def test_the_tally_adds_up(entries):
    message = [part.split(" ", 1) for part in tally(entries).split(", ") if part]
    assert sum(int(number) for number, _ in message) == len(entries)
    assert [word for _, word in message] == [
        word for word in WORST_FIRST if any(each.verdict == word for each in entries)
    ]


def test_reasons_that_differ_in_a_length_alone_are_one_line():
    entries = [
        entry_of(f"TT-{n}", "out of scope", why=f"context: {n:,} + 32 tokens exceed max_model_len 65,536")
        for n in (100_000, 2_000_000)
    ]
    ((found, _),) = table(entries)
    assert found.strip() == "2 out of scope context: the request exceeds max_model_len 65,536"


def test_published_claims_have_a_block_of_their_own():
    entries = [
        entry_of("TT-0001", "holds", title="t"),
        Entry("XX-0001", "holds", title="a claim"),
        Entry("XX-0002", "broken", why="wrong"),
    ]
    assert len(list(table(entries))) == 1
    assert tally(entries) == "1 holds"
    first, second = (each for each, _ in claims(entries))
    assert first == "published claims, by arithmetic alone: 1 broken, 1 holds"
    assert second.split() == ["XX-0002", "broken", "wrong"]
    assert list(claims(entries[:1])) == []


def test_a_cause_of_several_verdicts_is_told_once_with_their_names():
    why = "prompt_tokens: 7 tokens, wanted exactly 9 tokens"
    told = {
        Key("prompt count", "tiny"): [entry_of(f"TT-000{i}", "broken", why=why) for i in range(9)],
        Key("speed", "tiny"): [entry_of("TT-0010", "broken", why="ttft_s: 4 s, wanted <= 3 s")],
    }
    lines = list(causes(told, {}))
    assert all(len(each) <= 80 for each in lines)
    assert " ".join(each.strip() for each in lines) == (
        "one cause: tiny counts other prompt tokens than were sent (7 tokens, allowed exactly 9 tokens): "
        + ", ".join(f"TT-000{i}" for i in range(9))
    )


def test_a_wider_terminal_shows_more_of_a_line():
    ((found, _),) = table([entry_of("TT-0001", "broken", why="x" * 100)], width=150)
    assert found.endswith("x" * 100)
