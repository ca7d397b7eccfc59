import pytest

from pytest_longctx.errors import TableError
from pytest_longctx.reports import pages
from tests.unit import make

FAILS = {"question": "boot-fails", "expect": {"outcome": "runs out of memory"}}


@pytest.mark.parametrize(
    "changes",
    [
        {"cure": "TT-0002"},
        {"no_cure": "none is needed"},
        {**FAILS, "cure": "TT-0002", "no_cure": "and none"},
        {"question": "kv-dtype", "ask": {"prompt_tokens": 1}, "cure": "TT-0002"},
    ],
)
def test_only_an_expected_failure_has_a_cure_or_a_reason_why_not(changes):
    with pytest.raises(TableError, match="only an expected failure of a boot has one of the two"):
        make.finding(**changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"cure": "TT-0002"}, "Cure: TT-0002."), ({"no_cure": "it is too old"}, "No cure: it is too old.")],
)
def test_the_page_of_a_document_names_the_cure(changes, said):
    (page,) = (text for name, text in pages.pages([make.finding(**FAILS, **changes)]).items() if name != "README.md")
    assert f"**TT-0001**. {said}" in page
