"""A line that a pattern matches is always found; a line that no pattern may match is not."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_longctx.backends import catalogues
from pytest_longctx.diagnosis.pattern_set import PatternSet

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
