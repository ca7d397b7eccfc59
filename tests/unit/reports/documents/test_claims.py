"""The claims of the documents: none without a finding or a reason, and no figure that the document does not have."""

import json
import re
from pathlib import Path

import pytest

from pytest_longctx import paths, toml
from pytest_longctx.errors import TableError
from pytest_longctx.findings.finding import load_all
from pytest_longctx.reports.documents import claims, commands
from tests.unit import factories

SUITES = paths.suites()
DOCUMENTS = claims.load(SUITES / "claims.toml")
FINDINGS = load_all((SUITES / "findings",))
COMMANDS = commands.load(SUITES / "commands.toml")
KEPT = json.loads((Path(__file__).parents[3] / "data/documents.json").read_text(encoding="utf-8"))
"""Of each document its length, and the figures of every line that a row quotes. The documents themselves do not ship."""
FIGURE = re.compile(r"(?<![A-Za-z_.0-9])\d[\d,]*(?:\.\d+)*")
"""A number that is no part of a name, such as the 8 of FP8."""
ROW = {"at": "3", "says": "x", "true": "y", "verdict": "right", "by": "arithmetic", "evidence": "log"}


def figures(text: str) -> list[str]:
    return [found.rstrip(",").replace(",", "") for found in FIGURE.findall(text)]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda one: one.file)
def test_every_figure_of_a_quoted_claim_stands_on_its_lines(document):
    for row in document.claim:
        kept = [figure for line in row.lines for figure in KEPT[document.file]["figures"][str(line)]]
        assert set(figures(row.says)) <= set(kept), f"{document.file}, line {row.at}: {row.says}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda one: one.file)
def test_the_rows_stand_in_the_order_of_the_document(document):
    first = [row.lines.start for row in document.claim]
    assert first == sorted(first)
    assert all(row.lines and row.lines.stop - 1 <= KEPT[document.file]["lines"] for row in document.claim)


def test_every_finding_of_a_document_is_reached_from_a_row():
    titles = {one.title for one in DOCUMENTS}
    reached = {name for one in DOCUMENTS for row in one.claim for name in row.finding}
    assert len({one.file for one in DOCUMENTS}) == 5
    assert {name for name, each in FINDINGS.items() if each.source.document in titles} <= reached


def test_every_start_of_a_document_is_on_the_page_with_its_deployment():
    page = claims.page(DOCUMENTS, FINDINGS, COMMANDS)
    assert {each.document for each in COMMANDS} == {one.title for one in DOCUMENTS}
    assert all(f"| {each.where} | `{each.deployment}` |" in page for each in COMMANDS)


def test_a_claim_without_a_finding_needs_a_reason(tmp_path):
    data = tmp_path / "claims.toml"
    row = ", ".join(f'{name} = "{value}"' for name, value in ROW.items())
    data.write_text(f'[[document]]\ntitle = "t"\nfile = "f"\nclaim = [{{ {row} }}]\n', encoding="utf-8")
    with pytest.raises(TableError, match="line 3: a claim needs a finding, or a reason why there is no finding"):
        claims.load(data)


def test_a_finding_that_does_not_exist_is_an_error():
    row = toml.check({**ROW, "finding": ["SC-9999"]}, claims.Row, "a row")
    document = claims.Document(title="t", file="f", claim=(row,))
    with pytest.raises(TableError, match="unknown finding 'SC-9999'"):
        claims.page([document], {"TT-0001": factories.finding()}, [])


def test_the_page_is_that_of_the_data():
    """After a change: ``longctx findings docs/findings``."""
    page = SUITES.parent / "docs/findings/claims.md"
    assert page.read_text(encoding="utf-8") == claims.page(DOCUMENTS, FINDINGS, COMMANDS)
