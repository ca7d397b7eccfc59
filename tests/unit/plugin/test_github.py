from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_longctx.findings.verdicts import WORST_FIRST
from pytest_longctx.plugin import github
from pytest_longctx.reports.properties import Entry

BROKEN = Entry("TT-0001", "broken", why="ttft_s: 9 s, wanted <= 3 s", server={"deployment": "tiny"})


def test_a_broken_finding_is_an_error_of_its_test():
    message = github.annotation(BROKEN, Path("suites/a,b:c.py"), 7, failed=True)
    assert message == "::error file=suites/a%2Cb%3Ac.py,line=7,title=TT-0001 broken on tiny::ttft_s: 9 s, wanted <= 3 s"


@pytest.mark.parametrize(
    ("word", "failed", "level"),
    [("unmeasured", False, "::warning "), ("unmeasured", True, "::error "), ("broken", True, "::error ")],
)
def test_missing_evidence_is_a_warning_unless_it_fails_its_test(word, failed, level):
    message = github.annotation(Entry("TT-0001", word, title="a title"), None, None, failed=failed)
    assert message == f"{level}title=TT-0001 {word}::a title"


@pytest.mark.parametrize("word", ["holds", "known", "out of scope"])
def test_what_is_as_it_should_be_is_no_annotation(word):
    assert github.annotation(Entry("TT-0001", word), None, None, failed=False) is None


@given(st.text(), st.text())
def test_an_annotation_is_one_line_whatever_is_in_it(why, name):
    message = github.annotation(
        Entry("TT-0001", "broken", why=why, server={"deployment": name}), None, None, failed=True
    )
    assert message is not None
    assert "\n" not in message
    assert "\r" not in message
    assert message.count("::") >= 2


@given(st.lists(st.builds(Entry, finding=st.just("TT-0001"), verdict=st.sampled_from(WORST_FIRST), why=st.text())))
def test_each_row_of_the_summary_has_five_cells(entries):
    lines = "\n".join(github.summary(entries)).split("\n")
    rows = [line for line in lines if line.startswith("| TT")]
    assert len(rows) == sum(entry.verdict != "out of scope" for entry in entries)
    for row in rows:
        assert row.replace("\\\\", "").replace("\\|", "").count("|") == 6
        assert "<" not in row


def test_a_summary_of_very_many_stops():
    lines = list(github.summary([BROKEN] * 600))
    assert lines[-2] == "\nand 100 more."
