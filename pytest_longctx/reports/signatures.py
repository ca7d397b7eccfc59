"""The catalogues of log lines as one page."""

from collections.abc import Iterator, Mapping

from pytest_longctx.diagnosis.signatures import PHASES, Catalogue, Signature
from pytest_longctx.observation import KINDS

_MADE = "<!-- Made by `longctx signatures`. Edit the TOML files in pytest_longctx/backends, not this page. -->"
_RULE = {
    "signature": "What a server fails with. The first of these in a log is the cause; a summary counts where there is none.",
    "refusal": "What a request is turned down with.",
}


def page(catalogues: Mapping[str, Catalogue]) -> str:
    """Every signature of every catalogue, by the name of its backend."""
    return "\n".join(_page(catalogues)) + "\n"


def _page(catalogues: Mapping[str, Catalogue]) -> Iterator[str]:
    yield f"# Signatures\n\n{_MADE}\n"
    yield "Lines by which a failure is known. A finding names one in `expect.signature`.\n"
    for name, known in catalogues.items():
        yield f"## {name}\n"
        for kind, entries in (("signature", known.signature), ("refusal", known.refusal)):
            if entries:
                yield f"{_RULE[kind]}\n"
                yield "| id | class | phase | outcome | versions | what to try |\n| --- | --- | --- | --- | --- | --- |"
                yield from (_row(entry) for entry in entries)
                yield ""
        if known.benign:
            yield "What looks fatal and is not: it ends no wait and is never quoted as the first error.\n"
            yield "| id | why |\n| --- | --- |"
            yield from (f"| `{entry.id}` | {entry.why} |" for entry in known.benign)
            yield ""
    yield "## Classes\n\n| class | means |\n| --- | --- |"
    yield from (f"| `{kind}` | {meaning} |" for kind, meaning in KINDS.items())
    yield "\n## Phases\n\n| phase | means |\n| --- | --- |"
    yield from (f"| `{phase}` | {meaning} |" for phase, meaning in PHASES.items())


def _row(entry: Signature) -> str:
    summary = " (summary)" if entry.summary else ""
    phase = f"`{entry.phase}`" if entry.phase else "the boot's"
    cells = (f"`{entry.id}`{summary}", f"`{entry.kind}`", phase, entry.outcome, entry.version or "any", entry.remedy)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
