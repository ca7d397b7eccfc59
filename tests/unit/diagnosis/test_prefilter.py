"""A line that a pattern matches is never passed over."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_longctx.backends import catalogues
from pytest_longctx.diagnosis.prefilter import Prefilter, anchor, pieces

CATALOGUES = catalogues()
ENTRIES = [(name, each) for name, known in CATALOGUES.items() for each in (*known.signature, *known.benign)]


@pytest.mark.parametrize(("name", "entry"), ENTRIES, ids=lambda value: getattr(value, "id", value))
def test_each_example_passes_the_filter_of_its_pattern(name, entry):
    made = Prefilter([entry.regex])
    assert not made.always, "a pattern that every line would be tried for"
    for line in (entry.example, *getattr(entry, "also", ())):
        assert re.search(entry.regex, line), line
        assert made.numbers(line.encode()) == [0], line


@given(st.text("abc xyz", min_size=1), st.text("abc xyz"))
def test_a_literal_is_found_where_it_is_a_word(text, around):
    made = Prefilter([re.escape(text)])
    line = f"{around} {text} {around}"
    assert made.numbers(line.encode()) == [0]
    assert made.matters(line.encode())


@pytest.mark.parametrize(
    ("regex", "word"),
    [
        (r"a watched pot", "watched"),
        (r"Worker \w+ died", None),
        (r"[Ww]atchdog timeout \(", "timeout"),
        (r"(?:no|any) answer", "answer"),
    ],
)
def test_a_word_is_taken_only_where_it_stands_whole(regex, word):
    assert anchor(pieces(regex)[0]) == word or word is None


def test_a_line_without_any_of_the_words_does_not_matter():
    made = Prefilter([r"out of memory", r"engine (?:failed|died)"])
    assert not made.matters(b"INFO all is well")
    assert made.matters(b"the engine died")
