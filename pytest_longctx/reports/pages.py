"""Findings as pages: one for each source document, so that a reader sees which of its claims hold, which were wrong, and why."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from pytest_longctx.findings.finding import Bound, Finding, Status
from pytest_longctx.units import quantity

STATUSES: Mapping[Status, str] = {
    "confirmed": "the evidence supports it",
    "disputed": "the document was wrong; what is written here is the corrected claim",
    "predicted": "nobody has run it; arithmetic or a source says so",
    "withdrawn": "no longer claimed, and not judged",
}
_MADE = "<!-- Made by `longctx findings`. Edit the TOML files, not this page. -->"


def pages(found: Iterable[Finding]) -> dict[str, str]:
    """Every page by its file name, the index among them; findings of the project itself share one page."""
    by_document: dict[str, list[Finding]] = {}
    for finding in sorted(found, key=lambda finding: finding.id):
        by_document.setdefault(title_of(finding), []).append(finding)
    made = {f"{slug(title)}.md": "\n".join(_page(title, its)) + "\n" for title, its in by_document.items()}
    return {**made, "README.md": "\n".join(_index(by_document)) + "\n"}


def title_of(finding: Finding) -> str:
    """The document a finding comes from; what the project documents itself is one of them."""
    own = finding.source.document.startswith("docs/")
    return "This project's own laws and measurements" if own else finding.source.document


def slug(title: str) -> str:
    """
    A file name for *title*.

    >>> slug("vLLM 0.25.1 on H200")
    'vllm-0.25.1-on-h200'
    """
    return re.sub(r"[^a-z0-9.]+", "-", title.lower()).strip("-")


def _index(by_document: dict[str, list[Finding]]) -> Iterator[str]:
    yield "# Findings"
    yield f"\n{_MADE}\n"
    yield "One page for each document that findings were taken from.\n"
    yield "| document | " + " | ".join(STATUSES) + " |"
    yield "| --- " * (len(STATUSES) + 1) + "|"
    for title, its in by_document.items():
        counts = Counter(finding.status for finding in its)
        yield f"| [{title}]({slug(title)}.md) | " + " | ".join(str(counts[status] or "") for status in STATUSES) + " |"
    yield ""
    yield from (f"- **{status}**: {meaning}" for status, meaning in STATUSES.items())


def _page(title: str, its: list[Finding]) -> Iterator[str]:
    yield f"# {title}"
    yield f"\n{_MADE}\n"
    for status, meaning in STATUSES.items():
        of_status = [finding for finding in its if finding.status == status]
        if not of_status:
            continue
        yield f"## {status.capitalize()}: {meaning}\n"
        yield "| finding | what is so | where it holds | bounds |"
        yield "| --- | --- | --- | --- |"
        yield from (_row(finding) for finding in of_status)
        yield ""
        for finding in of_status:
            if said := " ".join(_prose(finding)):
                where = f" ({finding.source.where})" if finding.source.where else ""
                yield f"**{finding.id}**{where}. {said}\n"


def _prose(finding: Finding) -> Iterator[str]:
    yield from finding.note.split()
    if finding.cure:
        yield f"Cure: {finding.cure}."
    if finding.no_cure:
        yield f"No cure: {finding.no_cure}."


def _row(finding: Finding) -> str:
    cells = (finding.id, finding.title, _scope(finding), "; ".join(_bounds(finding)))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


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
