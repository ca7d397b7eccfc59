"""The claims of the source documents, one row each, as a Markdown page."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pytest_longctx import toml
from pytest_longctx.errors import TableError, unknown
from pytest_longctx.findings.finding import Finding
from pytest_longctx.reports.documents.commands import Command
from pytest_longctx.reports.pages import markdown_table, slug, title_of

Verdict = Literal["right", "partly right", "wrong", "not shown", "advice"]
By = Literal["measured here", "arithmetic", "log of the document", "source", "public text", "reading"]
Evidence = Literal["log", "result", "statement", "script"]

VERDICTS: Mapping[Verdict, str] = {
    "right": "it agrees with the evidence",
    "partly right": "a figure or a condition of it is wrong",
    "wrong": "the evidence contradicts it",
    "not shown": "nothing shows it, and nothing contradicts it",
    "advice": "it states no fact; the finding or the reason says what comes of it",
}
BYS: Mapping[By, str] = {
    "measured here": "a run of this project, on other hardware or in a newer version where the finding says so",
    "arithmetic": "a calculation; a test repeats those that give a figure which others, or the plan, determine",
    "log of the document": "a log that the document quotes, or that belongs to it",
    "source": "the source of the engine at that version, read",
    "public text": "a data sheet, a model's config.json or a documentation page, read",
    "reading": "comparison with another place of the same document",
}
EVIDENCE: Mapping[Evidence, str] = {
    "log": "an engine's or a tool's own output",
    "result": "a figure of a run, without its log",
    "statement": "prose",
    "script": "a script, a command or a comment in one",
}


class Row(toml.Table):
    """One claim of a document, and what is known about the claim."""

    at: Annotated[str, Field(pattern=r"^[0-9]+(-[0-9]+)?$")]
    """Line of the document, or first and last line."""
    says: str
    true: str
    verdict: Verdict
    by: By
    evidence: Evidence
    finding: toml.Names = ()
    reason: str = ""
    """Why no finding judges the claim."""

    @model_validator(mode="after")
    def _followed_up(self) -> Self:
        if not self.finding and not self.reason:
            raise ValueError(f"line {self.at}: a claim needs a finding, or a reason why there is no finding")
        return self

    @property
    def lines(self) -> range:
        """Lines of the source document that make the claim."""
        first, _, last = self.at.partition("-")
        return range(int(first), int(last or first) + 1)


class Document(toml.Table):
    """One source document and its claims, in the document's order."""

    title: str
    """Title of the document, as findings name it."""
    file: str
    """Name of the document in the test data, which keep the figures of the quoted lines."""
    claim: Annotated[tuple[Row, ...], toml.LISTED]


class Documents(toml.Table):
    """The contents of the data file of claims."""

    document: Annotated[tuple[Document, ...], toml.LISTED]


def load(path: Path) -> tuple[Document, ...]:
    """Return the claims of every source document. Raises `TableError`."""
    return toml.load(path, Documents).document


def page(documents: Sequence[Document], found: Mapping[str, Finding], commands: Iterable[Command]) -> str:
    """Return the page of all claims of the source documents. Raises `TableError` for a finding that does not exist."""
    return "\n".join(_page(documents, found, tuple(commands))) + "\n"


def _page(documents: Sequence[Document], found: Mapping[str, Finding], commands: Sequence[Command]) -> Iterator[str]:
    rows = [row for each in documents for row in each.claim]
    yield "# Claims of the documents\n"
    yield "<!-- Made by `longctx findings`. Edit suites/claims.toml, not this page. -->\n"
    yield f"{len(rows)} checkable claims of {len(_pages(documents))} documents, in the order of each document. *At* is its line."
    yield "A claim that the document repeats has one row, at its first place or at its most complete one.\n"
    words = Counter(row.verdict for row in rows)
    yield from markdown_table(("verdict", "claims", "means"), ((w, str(words[w]), VERDICTS[w]) for w in VERDICTS))
    yield ""
    yield from markdown_table(("by", "the verdict rests on"), BYS.items())
    yield ""
    yield from markdown_table(("evidence", "what the document shows for it"), EVIDENCE.items())
    for document in documents:
        yield f"\n## {document.title}: {document.file}\n"
        head = ("at", "it says", "what is true", "verdict", "by", "evidence", "finding, or why there is none")
        yield from markdown_table(head, (_row(row, found) for row in document.claim))
    yield "\n## Systems\n"
    yield "Every start that the documents publish, and its deployment. [Commands](../reference/commands.md) compares both.\n"
    starts = {(each.document, each.where): each.deployment for each in commands}
    yield from markdown_table(
        ("document", "start", "deployment", "findings"),
        ((doc, where, f"`{name}`", ", ".join(_named(name, found)) or "-") for (doc, where), name in starts.items()),
    )


def _pages(documents: Iterable[Document]) -> set[str]:
    return {each.file for each in documents}


def _named(deployment: str, found: Mapping[str, Finding]) -> Iterator[str]:
    for name, finding in found.items():
        if deployment in finding.scope.deployment:
            yield f"[{name}]({_page_of(finding)})"


def _row(row: Row, found: Mapping[str, Finding]) -> tuple[str, ...]:
    for name in row.finding:
        if name not in found:
            raise TableError(f"claims, line {row.at}: {unknown('finding', name, found)}")
    links = ", ".join(f"[{name}]({_page_of(found[name])})" for name in row.finding)
    last = "; ".join(part for part in (links, row.reason) if part)
    return row.at, row.says, row.true, row.verdict, row.by, row.evidence, last


def _page_of(finding: Finding) -> str:
    return f"{slug(title_of(finding))}.md"
