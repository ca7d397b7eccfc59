"""Markdown pages made from data files: findings, signatures, published commands."""

import ast
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field

from pytest_longctx import toml
from pytest_longctx.backends import Backend
from pytest_longctx.deployments.deployment import Deployment
from pytest_longctx.diagnosis.signatures import PHASES, Catalogue, Signature
from pytest_longctx.errors import TableError, unknown
from pytest_longctx.findings.finding import Bound, Finding, Status
from pytest_longctx.launchers.start_command import StartCommand
from pytest_longctx.observation import KINDS
from pytest_longctx.units import quantity

STATUSES: Mapping[Status, str] = {
    "confirmed": "the evidence supports it",
    "disputed": "the document was wrong; the finding states the corrected claim",
    "predicted": "not run yet; based on arithmetic or a source",
    "withdrawn": "no longer claimed and not judged",
}
_MADE = "<!-- Made by `longctx findings`. Edit the TOML files, not this page. -->"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    r"""
    The lines of a Markdown table; a pipe in a cell does not end it.

    >>> list(markdown_table(("a", "b"), [("1|2", "3")]))
    ['| a | b |', '| --- | --- |', '| 1\\|2 | 3 |']
    """
    for cells in (head, ["---"] * len(head), *rows):
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def pages(found: Iterable[Finding]) -> dict[str, str]:
    """Return every page by file name, including the index. The project's own findings share one page."""
    by_document: dict[str, list[Finding]] = {}
    for finding in sorted(found, key=lambda finding: finding.id):
        by_document.setdefault(title_of(finding), []).append(finding)
    made = {f"{slug(title)}.md": "\n".join(_page(title, its)) + "\n" for title, its in by_document.items()}
    return {**made, "README.md": "\n".join(_index(by_document)) + "\n"}


def title_of(finding: Finding) -> str:
    """Return the title of the document a finding comes from; the project's own findings have one title."""
    own = finding.source.document.startswith("docs/")
    return "This project's own laws and measurements" if own else finding.source.document


def slug(title: str) -> str:
    """
    Return a file name for *title*.

    >>> slug("vLLM 0.25.1 on H200")
    'vllm-0.25.1-on-h200'
    """
    return re.sub(r"[^a-z0-9.]+", "-", title.lower()).strip("-")


def _index(by_document: dict[str, list[Finding]]) -> Iterator[str]:
    yield "# Findings"
    yield f"\n{_MADE}\n"
    yield "One page for each source document of the findings.\n"
    counted = [(title, Counter(finding.status for finding in its)) for title, its in by_document.items()]
    rows = [(f"[{title}]({slug(title)}.md)", *(str(of[status] or "") for status in STATUSES)) for title, of in counted]
    yield from markdown_table(("document", *STATUSES), rows)
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
        yield from markdown_table(("finding", "claim", "scope", "bounds"), map(_row, of_status))
        yield ""
        for finding in of_status:
            if text := " ".join(_prose(finding)):
                where = f" ({finding.source.where})" if finding.source.where else ""
                yield f"**{finding.id}**{where}. {text}\n"


def _prose(finding: Finding) -> Iterator[str]:
    yield from finding.note.split()
    if finding.cure:
        yield f"Cure: {finding.cure}."
    if finding.no_cure:
        yield f"No cure: {finding.no_cure}."


def _row(finding: Finding) -> tuple[str, ...]:
    return finding.id, finding.title, _scope(finding), "; ".join(_bounds(finding))


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
    "signature": "Failures of a server. The first such line in a log is the cause; a summary line counts only alone.",
    "refusal": "Refusals of a request.",
}


def signatures_page(catalogues: Mapping[str, Catalogue]) -> str:
    """Return a page with every signature of every catalogue, by backend name."""
    return "\n".join(_engine_section(catalogues)) + "\n"


def _engine_section(catalogues: Mapping[str, Catalogue]) -> Iterator[str]:
    yield f"# Signatures\n\n{_MADE_BY_SIGNATURES}\n"
    yield "Log lines that identify a failure. A finding names one in `expect.signature`.\n"
    for name, known in catalogues.items():
        yield f"## {name}\n"
        for kind, entries in (("signature", known.signature), ("refusal", known.refusal)):
            if entries:
                yield f"{_RULE[kind]}\n"
                head = ("id", "class", "phase", "outcome", "versions", "remedy")
                yield from markdown_table(head, map(_signature_row, entries))
                yield ""
        if known.benign:
            yield "Lines that look fatal but are not. They end no wait and are never quoted as the first error.\n"
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


Options = Mapping[str, str]
"""Flags without dashes, under their usual names. A flag without a value maps to an empty string."""

_SAME = {"tp": "tensor-parallel-size", "tp-size": "tensor-parallel-size", "model-path": "model"}
_EACH_RUN = frozenset({"host", "port", "served-model-name", "enable-metrics", "enable-cache-report"})
"""Flags that differ in every pair: loopback address, free port, model name, and counters used by the verdicts."""


class Command(toml.Table):
    """Documented start command: a command line, or the ``LLM(...)`` call of a script."""

    document: str
    where: str
    text: str
    deployment: str
    corrected: dict[str, str] = Field(default_factory=dict)
    """Reasons for flags that differ from the document, by flag name without dashes."""


class Published(toml.Table):
    """Contents of the data file."""

    command: Annotated[tuple[Command, ...], toml.LISTED] = ()


class Difference(NamedTuple):
    """Flag that differs from the document; ``None`` means the flag is absent."""

    flag: str
    documented: str | None
    rendered: str | None
    why: str | None


def load_commands(path: Path) -> tuple[Command, ...]:
    """Read every published command. Raises `TableError`."""
    return toml.load(path, Published).command


def documented(text: str) -> Options:
    """Return the options of a published start. Raises `TableError` if it is neither a command line nor a call."""
    if not text.lstrip().startswith("LLM("):
        return _of_line(shlex.split(text.replace("\\\n", " "), comments=True))
    try:
        call = ast.parse(text.strip(), mode="eval").body
        keywords = call.keywords if isinstance(call, ast.Call) else []
        given = {word.arg or "": ast.literal_eval(word.value) for word in keywords}
    except (SyntaxError, ValueError) as problem:
        raise TableError(f"text: not a call with plain values: {problem}") from None
    names = {name.replace("_", "-"): value for name, value in given.items()}
    return dict(
        (f"no-{name}", "") if value is False else (name, "" if value is True else _value(str(value)))
        for name, value in names.items()
    )


def _of_line(words: Iterable[str]) -> Options:
    start = StartCommand(command=tuple(words))
    named = {name[2:]: _value(value) for name, value in start.flags.items() if name.startswith("--")}
    model = {"model": start.model} if start.model else {}
    return {**model, **{_SAME.get(name, name): value for name, value in named.items()}}


def _value(text: str) -> str:
    """Normalise numbers, so that 0.90 equals 0.9."""
    try:
        return f"{float(text):.12g}"
    except ValueError:
        return text


def rendered(backend: Backend, one: Deployment) -> tuple[str, ...]:
    """Return the command line that starts *one* with the interpreter ``python3``."""
    return backend.recipe(one, one.model.id or one.model.name, 8000, "python3").argv


def differences(command: Command, argv: tuple[str, ...]) -> Iterator[Difference]:
    """Each flag in which *argv* differs from *command*, with its reason if one is given."""
    then, now = documented(command.text), _of_line(argv)
    for flag in sorted((then.keys() | now.keys()) - _EACH_RUN):
        if then.get(flag) != now.get(flag):
            yield Difference(flag, then.get(flag), now.get(flag), command.corrected.get(flag))


def commands_page(commands: Iterable[Command], known: Mapping[str, tuple[Backend, Deployment]]) -> str:
    """
    Return the page of all commands. Raises `TableError` for a difference without a reason or a reason without a
    difference.
    """
    lines = [
        "# Published commands and rendered commands\n",
        "Written by `longctx commands`. Each deployment renders its own command line; every difference from the published",
        "command is listed with its reason. Flags left out of each comparison: "
        + ", ".join(f"`--{name}`" for name in sorted(_EACH_RUN))
        + ". In a",
        "run, a server listens on loopback at a free port and reports its counters.\n",
    ]
    for command in commands:
        if command.deployment not in known:
            raise TableError(f"{command.where}: {unknown('deployment', command.deployment, known)}")
        argv = rendered(*known[command.deployment])
        found = list(differences(command, argv))
        idle = command.corrected.keys() - {each.flag for each in found}
        bare = [each.flag for each in found if each.why is None]
        if idle or bare:
            wrong = f"without a reason: {', '.join(bare) or 'none'}; reasons without a difference: {sorted(idle)}"
            raise TableError(f"{command.document}, {command.where}: {command.deployment} differs {wrong}")
        lines += _section(command, argv, found)
    return "\n".join(lines)


def _section(command: Command, argv: tuple[str, ...], found: list[Difference]) -> Iterator[str]:
    yield f"## {command.deployment}\n"
    yield f"{command.document}: {command.where}\n"
    yield f"```\n{command.text.strip()}\n```\n"
    yield f"Rendered:\n\n```\n{shlex.join(argv)}\n```\n"
    if not found:
        yield "No difference.\n"
        return
    rows = ((f"`--{each.flag}`", _cell(each.documented), _cell(each.rendered), str(each.why)) for each in found)
    yield from markdown_table(("flag", "documented", "here", "why"), rows)
    yield ""


def _cell(value: str | None) -> str:
    return "not there" if value is None else f"`{' '.join(value.split())}`" if value else "set"
