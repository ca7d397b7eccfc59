"""The page about hosted APIs in miniature has a line for each."""

import re
from pathlib import Path

from pytest_longctx.miniatures.hosted.api import DIALECT_NAMES
from pytest_longctx.miniatures.hosted.faults import FAULTS
from pytest_longctx.miniatures.hosted.refusals import REFUSALS
from tests.unit.certificate.test_faults import NAMED_BY

PAGE = Path(__file__).parents[4] / "docs/explanation/hosted-miniatures.md"


def rows():
    """Return the check of each fault, as the page says."""
    return dict(
        re.findall(r"^\| `([\w-]+)` \|.*\| (?:`([\w-]+)` )?[^|]*\|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    )


def test_each_miniature_has_a_line():
    assert set(rows()) == set(FAULTS)


def test_each_check_is_that_of_the_tests():
    assert {name: check or None for name, check in rows().items()} == NAMED_BY


def test_the_numbers_in_the_text_are_right():
    assert (len(REFUSALS), len(DIALECT_NAMES)) == (14, 5)
