"""A line that a pattern matches is always found; a line that no pattern may match is not."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_longctx.backends import catalogues
from pytest_longctx.diagnosis.catalogue_index import index_of
from pytest_longctx.diagnosis.log_reader import LogReader
from pytest_longctx.diagnosis.parsing.records import plain
from pytest_longctx.diagnosis.pattern_set import PatternSet, needed

CATALOGUES = catalogues()
ENTRIES = [(name, each) for name, known in CATALOGUES.items() for each in (*known.signature, *known.benign)]


@pytest.mark.parametrize(("name", "entry"), ENTRIES, ids=lambda value: getattr(value, "id", value))
def test_each_example_is_found_by_its_pattern(name, entry):
    made = PatternSet(["something else", entry.regex])
    for line in (entry.example, *getattr(entry, "also", ())):
        assert re.search(entry.regex, line), line
        assert made.numbers(line) == [1], line


@pytest.mark.parametrize(
    ("regex", "found", "other"),
    [
        (r"^exit code [1-9]\d*$", "INFO exit code 137", "exit code unknown"),
        (r"^exit code [1-9]\d*$", "exit code 0\n", "exit code 0 of none"),  # numbers are not told apart
        (r"rate: (?!0\.0)", "rate: 0.0", "rat: 5"),
        (r"(?<!not (?:un)?)healthy|sound", "not healthy", "heathy"),
        (r"a{2,3}b[^0-9]c", "aab-c", "ab-c"),
        (r"[]\d]x", "]x", "yx"),
        (r"(?:Error|Exit)(?:: |$)", '{"message": "KeyError"}', "KeyErrors"),
        (r"Error$", "one KeyError \r\nmore", "KeyErrors\nmore"),
    ],
)
def test_numbers_prefixes_and_lookarounds_are_not_told_apart(regex, found, other):
    made = PatternSet([regex])
    assert made.numbers(found) == [0]
    assert made.numbers(other) == []


@given(st.text("ab1 .[]()", min_size=1), st.text("ab1 .[]()\n"))
def test_a_literal_is_found_wherever_it_stands(text, around):
    assert PatternSet([re.escape(text)]).numbers(f"{around}{text}{around}") == [0]


@pytest.mark.parametrize("others", [[], ["none of it"]])
def test_a_pattern_that_cannot_be_read_may_match_every_line(others):
    made = PatternSet([r"(?P<a>a)(?P=a)", *others])
    assert made.numbers("aa") == made.numbers("b") == [0]


def test_half_of_a_surrogate_pair_is_read_as_another_character():
    assert PatternSet(["out of memory"]).numbers("\ud83d out of memory") == [0]


def test_a_reference_to_a_group_may_match_any_text():
    made = PatternSet([r"(\w+) and \1$"])
    assert (made.numbers("left and left"), made.numbers("left or left")) == ([0], [])


@given(
    st.lists(
        st.sampled_from(["a*", "a+", "b?", r"\w*", "[ab]+?", "(?:ab|c)*", "(?:a(?:b|c))?", r"\(?"]), max_size=3
    ).map("".join),
    st.sampled_from(["ab", "c", r"\(", "a|bc", "b+c*"]),
    st.text("abc(\n"),
)
def test_a_repetition_at_the_beginning_changes_no_answer(lead, rest, text):
    regex = f"{lead}{rest}|{lead}cc"
    found = any(re.search(regex, line) for line in text.split("\n"))
    assert PatternSet([regex]).numbers(text) == [0] * found


def shown(known):
    """Return all lines that a catalogue quotes: those that match, and the similar ones that must not."""
    lines = [
        line
        for each in (*known.signature, *known.refusal, *known.benign)
        for line in (each.example, each.near_miss, *each.also)
    ]
    return [line for whole in lines for line in whole.splitlines() if line.strip()]


@pytest.mark.parametrize("name", CATALOGUES)
def test_each_entry_that_matches_a_quoted_line_is_found_in_it(name):
    """Also the entries that the line was not written for, and in a line that must not match its own entry."""
    index = index_of(CATALOGUES[name])
    for line in shown(CATALOGUES[name]):
        found = {id(entry) for _, entry in index.of(line)}
        missed = [
            pattern.pattern for pattern, entry in index.entries if id(entry) not in found and pattern.search(line)
        ]
        assert missed == [], line


def escaped(character):
    """Return the escape of JSON for a character, in which a letter cannot be seen."""
    return f"\\u{ord(character):04x}"


WRITTEN = {
    "as it is": lambda line: line,
    "docker": lambda line: json.dumps({"log": f"{line}\n", "stream": "stderr"}),
    "kubectl": lambda line: f"[pod/a-0/main] 2026-01-01T00:00:00.5Z {line}",
    "json": lambda line: json.dumps({"message": line, "level": "error"}, ensure_ascii=False),
    "json in json": lambda line: json.dumps({"log": json.dumps({"message": line})}),
    "escaped characters": lambda line: json.dumps({"message": "@"}).replace("@", "".join(map(escaped, line))),
}


@pytest.mark.parametrize("way", WRITTEN)
@pytest.mark.parametrize("name", CATALOGUES)
def test_a_quoted_line_that_an_entry_matches_is_read_however_it_was_written(name, way):
    reader = LogReader(CATALOGUES[name])
    lines = [line for line in shown(CATALOGUES[name]) if any(each.search(line) for each, _ in reader._index.entries)]
    written = [WRITTEN[way](line).encode() for line in lines]
    assert [line for line, read in zip(written, reader._matter(written), strict=True) if not read] == []
    assert [line for line in written if not reader._may_matter(line)] == []


@given(st.lists(st.text('abc "\\\n\té', max_size=12), max_size=3), st.integers(0, 3))
def test_what_formatters_escaped_is_read_as_it_was(parts, formatters):
    text = said = " ".join(parts)
    for number in range(formatters):
        said = json.dumps(said, ensure_ascii=number % 2 == 0)
    assert text in plain(said.encode()).decode()


REGEXES = st.recursive(
    st.sampled_from(["abcd", "b", "[ab]c", "x?", r"\d", ".", r"\b", "cc d", "(?P<n>ab)"]),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda pair: f"(?:{pair[0]}|{pair[1]})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2,3}", "+?"])).map(lambda pair: f"(?:{pair[0]}){pair[1]}"),
    ),
    max_leaves=10,
).filter(lambda regex: regex.count("(?P<n>") < 2)


@given(REGEXES, st.data())
def test_a_match_has_a_word_of_each_list_that_is_needed(regex, data):
    text = data.draw(st.from_regex(re.compile(regex, re.ASCII), fullmatch=True))
    for words in needed(regex):
        assert any(word in text for word in words)


@given(st.lists(REGEXES, max_size=4), st.lists(st.text("abcdx 1\n", max_size=9), max_size=6))
def test_texts_searched_together_are_found_as_each_by_itself(regexes, texts):
    made = PatternSet(regexes)
    alone = {at for at, text in enumerate(texts) if made.numbers(text)}
    right = {at for at, text in enumerate(texts) if any(re.search(each, text) for each in regexes)}
    assert right <= alone == made.matched([text.encode() for text in texts])
    assert all(made.may_match(texts[at].encode()) for at in alone)


def test_a_pattern_of_two_parts_is_searched_only_where_both_are():
    made = PatternSet(["out of memory.*tried to allocate"])
    assert made._candidates(b"out of memory") == made._candidates(b"tried to allocate") == set()
    assert made._candidates(b"tried to allocate, out of memory") == {0}
    assert made.numbers("tried to allocate, out of memory") == []
