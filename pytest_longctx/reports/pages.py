"""Markdown pages of the documentation, made from data files: findings and signatures."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from pytest_longctx.diagnosis.signatures import PHASES, Catalogue, Signature
from pytest_longctx.findings.ask import QUESTIONS
from pytest_longctx.findings.finding import Bound, Finding, Status
from pytest_longctx.observation import KINDS
from pytest_longctx.units import quantity

STATUSES: Mapping[Status, str] = {
    "confirmed": "measured by this project, or judged here by arithmetic or a lint",
    "documented": "a document says so, with a log or a table; this project has not measured it",
    "disputed": "the document was wrong; the finding states the corrected claim",
    "predicted": "not run yet; based on arithmetic or a source",
    "withdrawn": "no longer claimed and not judged",
}
_MADE = "<!-- Made by `longctx findings`. Edit the TOML files, not this page. -->"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    r"""
    Yield the lines of a Markdown table for a page, in which a pipe in a cell does not end the cell.

    >>> list(markdown_table(("a", "b"), [("1|2", "3")]))
    ['| a | b |', '| --- | --- |', '| 1\\|2 | 3 |']
    """
    for cells in (head, ["---"] * len(head), *rows):
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def pages(found: Iterable[Finding]) -> dict[str, str]:
    """
    Return every Markdown page of findings by file name, with the index. All of the project's own findings share one
    page.
    """
    by_document: dict[str, list[Finding]] = {}
    for finding in sorted(found, key=lambda finding: finding.id):
        by_document.setdefault(title_of(finding), []).append(finding)
    made = {f"{slug(title)}.md": "\n".join(_page(title, its)) + "\n" for title, its in by_document.items()}
    return {**made, "README.md": "\n".join(_index(by_document)) + "\n"}


def title_of(finding: Finding) -> str:
    """Return the title of a finding's page: the source document, or one title for all of the project's own findings."""
    own = finding.source.document.startswith("docs/")
    return "This project's own laws and measurements" if own else finding.source.document


def slug(title: str) -> str:
    """
    Return the file name of a page with *title*.

    >>> slug("vLLM 0.25.1 on H200")
    'vllm-0.25.1-on-h200'
    """
    return re.sub(r"[^a-z0-9.]+", "-", title.lower()).strip("-")


def _index(by_document: dict[str, list[Finding]]) -> Iterator[str]:
    yield "# Findings"
    yield f"\n{_MADE}\n"
    yield "One page for each source document of the findings. [Claims](claims.md) has a row for each checkable claim of the five"
    yield "documents with which the suite began.\n"
    counted = [(title, Counter(finding.status for finding in its)) for title, its in by_document.items()]
    rows = [(f"[{title}]({slug(title)}.md)", *(str(of[status] or "") for status in STATUSES)) for title, of in counted]
    yield from markdown_table(("document", *STATUSES), rows)
    yield ""
    yield from (f"- **{status}**: {meaning}" for status, meaning in STATUSES.items())
    yield "\n## Questions\n"
    yield "The question of a finding selects the test that judges it ([in detail](../how-to/write-a-finding.md)).\n"
    yield from (f"- `{question}`: {asks}" for question, asks in QUESTIONS.items())


def _page(title: str, its: list[Finding]) -> Iterator[str]:
    yield f"# {title}"
    yield f"\n{_MADE}\n"
    for status, meaning in STATUSES.items():
        of_status = [finding for finding in its if finding.status == status]
        if not of_status:
            continue
        yield f"## {status.capitalize()}: {meaning}\n"
        yield from markdown_table(("finding", "claim", "question", "scope", "bounds"), map(_row, of_status))
        yield ""
        for finding in of_status:
            if text := " ".join(_prose(finding)):
                where = f" ({finding.source.where})" if finding.source.where else ""
                yield f"**{finding.id}**{where}. {text}\n"


def _prose(finding: Finding) -> Iterator[str]:
    yield from finding.note.split()
    if finding.cure:
        yield f"Fix: {finding.cure}."
    if finding.no_cure:
        yield f"No fix: {finding.no_cure}."


def _row(finding: Finding) -> tuple[str, ...]:
    return finding.id, finding.title, f"`{finding.question}`", _scope(finding), "; ".join(_bounds(finding))


def _scope(finding: Finding) -> str:
    scope = finding.scope
    version = f" {scope.version}" if scope.version else ""
    backend = f"{', '.join(scope.backend) or 'any backend'}{version}"
    return ", ".join(part for part in (backend, scope.hardware, *(f"`{name}`" for name in scope.deployment)) if part)


def _bounds(finding: Finding) -> Iterator[str]:
    expect = finding.expect
    if expect.outcome != "serves":
        yield " ".join(part for part in (expect.outcome, expect.signature and f"(`{expect.signature}`)") if part)
    for name, bound in finding.bounds.items():
        yield f"`{name}` {_limits(bound)}"


def _limits(bound: Bound) -> str:
    low, high = bound.limits
    if bound.tolerance is not None and bound.reference is not None:
        return f"{quantity(bound.reference, bound.unit)} ± {bound.tolerance}"
    if bound.sigmas is not None and bound.reference is not None:
        return f"{quantity(bound.reference, bound.unit)} ± {bound.sigmas:g} standard errors (its own {bound.stderr:g})"
    if low == high and low is not None:
        return quantity(low, bound.unit)
    sides = [f"{sign} {quantity(side, bound.unit)}" for sign, side in (("≥", low), ("≤", high)) if side is not None]
    return " and ".join(sides) or "reported"


_MADE_BY_SIGNATURES = (
    "<!-- Made by `longctx signatures`. Edit the TOML files in pytest_longctx/backends, not this page. -->"
)
_RULE = {
    "signature": "Lines that report a failure of the server. The first such line in a log is the cause. A line with\n"
    "(summary) only says that something failed, so it counts only if no other line matches.",
    "refusal": "Messages with which the server refuses a request. They are no failure of the server.",
}


def signatures_page(catalogues: Mapping[str, Catalogue]) -> str:
    """Return the Markdown page with every signature of every catalogue, by backend name."""
    return "\n".join(_engine_section(catalogues)) + "\n"


def _engine_section(catalogues: Mapping[str, Catalogue]) -> Iterator[str]:
    yield f"# Signatures\n\n{_MADE_BY_SIGNATURES}\n"
    yield "The log lines by which a failure is recognised, for each engine. A finding names one of them in"
    yield "`expect.signature`. *Class* and *phase* are explained at the end of the page; *remedy* is what to try.\n"
    for name, known in catalogues.items():
        yield f"## {name}\n"
        for kind, entries in (("signature", known.signature), ("refusal", known.refusal)):
            if entries:
                yield f"{_RULE[kind]}\n"
                head = ("id", "class", "phase", "outcome", "versions", "remedy")
                yield from markdown_table(head, map(_signature_row, entries))
                yield ""
        if known.benign:
            yield "Harmless lines that look like a fatal error. They end no wait and are never quoted as the first error.\n"
            yield from markdown_table(("id", "why"), ((f"`{entry.id}`", entry.why) for entry in known.benign))
            yield ""
    yield "## Classes\n"
    yield from markdown_table(("class", "means"), ((f"`{kind}`", meaning) for kind, meaning in KINDS.items()))
    yield "\n## Phases\n"
    yield from markdown_table(("phase", "means"), ((f"`{phase}`", meaning) for phase, meaning in PHASES.items()))


def _signature_row(entry: Signature) -> tuple[str, ...]:
    summary = " (summary)" if entry.summary else ""
    phase = f"`{entry.phase}`" if entry.phase else "the boot's"
    return f"`{entry.id}`{summary}", f"`{entry.kind}`", phase, entry.outcome, entry.version or "any", entry.remedy
