"""One results file as a self-contained HTML page. The page loads nothing and is readable without JavaScript."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from shlex import join, quote
from typing import Any

from pytest_longctx import paths
from pytest_longctx.errors import UsageError
from pytest_longctx.findings.verdicts import WORST_FIRST
from pytest_longctx.measures import MEASURES
from pytest_longctx.reports import plots
from pytest_longctx.reports.panels import panels
from pytest_longctx.reports.results import Results
from pytest_longctx.units import duration, quantity

Row = Mapping[str, Any]

ALL_EVIDENCE = 2_000
"""Number of verdicts above which the page shows only bounded figures, the TTFT and the prompt length of each."""

MOST_OPEN = 50
"""Number of failures above which all failures start collapsed."""

_FEW = ("ttft_s", "prompt_tokens")


def check() -> None:
    """Raise `UsageError` if Jinja2 is not installed. Called before a run, so that the report cannot fail after it."""
    try:
        import jinja2  # noqa: F401, PLC0415 - an extra
    except ImportError:
        raise UsageError(
            "a report needs Jinja2, which is not installed: pip install 'pytest-longctx[report]'"
        ) from None


def page(results: Results) -> str:
    """Return the page as HTML."""
    check()
    from jinja2 import Environment, PackageLoader  # noqa: PLC0415 - an extra

    loader = PackageLoader("pytest_longctx.reports", ".")
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(duration=duration)
    found = list(findings(results))
    counts = Counter(row["verdict"] for row in results.verdicts)
    causes = list(failures(results))
    return environment.get_template("report.html.j2").render(
        results=results,
        style=plots.STYLE,
        paint=plots.paint,
        panels=list(panels(results)),
        findings=found,
        failures=causes,
        opened=len(causes) <= MOST_OPEN,
        shortened=len(results.verdicts) > ALL_EVIDENCE,
        labels=[(word, counts[word]) for word in WORST_FIRST if counts[word]],
        servers=_servers(results),
    )


def write(results: Results, path: Path) -> None:
    """Write the page to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(results), encoding="utf-8")


def findings(results: Results) -> Iterator[dict[str, Any]]:
    """Return the verdicts grouped by finding, worst first."""
    by_id: dict[str, list[Row]] = {}
    for row in results.verdicts:
        by_id.setdefault(row["finding"], []).append(row)
    few = len(results.verdicts) > ALL_EVIDENCE
    for word in WORST_FIRST:
        for name, rows in sorted(by_id.items()):
            if word == min((row["verdict"] for row in rows), key=WORST_FIRST.index):
                first = rows[0]
                yield {
                    "id": name,
                    "word": word,
                    "title": first["title"],
                    "status": first["status"],
                    "source": first.get("source", ""),
                    "rows": [(row, _evidence(row, few=few)) for row in rows],
                }


def _evidence(row: Row, *, few: bool) -> str:
    bounds = row.get("bounds", {})
    shown = (
        f"{name} {quantity(value, MEASURES[name].unit if name in MEASURES else '')}{_allowed(bounds.get(name))}"
        for name, value in row["measured"].items()
        if not few or name in bounds or name in _FEW
    )
    return "; ".join(shown)


def _allowed(bound: Row | None) -> str:
    return f" ({', '.join(f'{name} {value}' for name, value in bound.items())})".replace("_", " ") if bound else ""


def failures(results: Results) -> Iterator[dict[str, Any]]:
    """Return the failures grouped by cause, with the affected tests. Boots that failed as documented come last."""
    boots = [_failed_boot(boot, results) for boot in results.boots if boot["outcome"] != "serves"]
    yield from (boot for boot in boots if boot["word"] == "broken")
    causes: dict[tuple[str, ...], list[Row]] = {}
    for row in results.verdicts:
        if row["verdict"] in ("broken", "unmeasured", "known"):
            key = (row["verdict"], row["why"], row["said"], row["server"].get("deployment", ""))
            causes.setdefault(key, []).append(row)
    for (word, why, message, deployment), rows in causes.items():
        yield {
            "word": word,
            "cause": why,
            "deployment": deployment,
            "excerpt": "" if " ".join(message.split()) in why else message,
            "ids": sorted({row["finding"] for row in rows}),
            "again": [again(results.header, row) for row in rows],
        }
    yield from (boot for boot in boots if boot["word"] == "holds")
    failed = {boot["deployment"] for boot in boots}
    for row in results.verdicts:
        if row["verdict"] == "holds" and row["why"] and row["server"].get("deployment", "") not in failed:
            yield _remarked(row, results)


def _remarked(row: Row, results: Results) -> dict[str, Any]:
    """Whether the finding holds although another result of the boot was predicted."""
    return {
        "word": row["verdict"],
        "cause": row["why"],
        "deployment": row["server"].get("deployment", ""),
        "excerpt": "",
        "ids": [row["finding"]],
        "again": [again(results.header, row)],
    }


def _failed_boot(boot: Row, results: Results) -> dict[str, Any]:
    name = boot.get("deployment", "")
    struck = [row for row in results.verdicts if row["server"].get("deployment", "") == name]
    documented = struck and all(row["verdict"] in ("holds", "out of scope") for row in struck)
    signature = f" ({boot['signature']})" if boot.get("signature") else ""
    remarks = sorted({row["why"] for row in struck if row["verdict"] == "holds" and row["why"]})
    return {
        "word": "holds" if documented else "broken",
        "cause": "; ".join(
            [f"the boot {boot['outcome']}{signature}" + (", as documented" if documented else ""), *remarks]
        ),
        "deployment": name,
        "excerpt": boot.get("explained") or boot.get("said", ""),
        "ids": sorted({row["finding"] for row in struck}),
        "again": [again(results.header, row) for row in struck[:1]],
    }


def again(header: Row, row: Row) -> str:
    """
    Return the command that repeats the test of a verdict with the same prompts, from any folder.

    A merged file has more than one seed.
    """
    typed = header.get("options") or [
        f"--backend={header.get('backend', 'NAME')}",
        *(word for word in header.get("arguments", ()) if word.startswith("--longctx-") and "=" in word),
    ]
    seed = row["server"].get("seed") or header.get("seed", "N")
    return f"pytest {_test(header, row['test'])} {join(typed)} --longctx-seed={seed}"


def _test(header: Row, name: str) -> str:
    """Return the arguments that select only the test *name*: suite tests by case, other tests by path."""
    file, _, rest = name.partition("::")
    if paths.suites().joinpath(*Path(file).parts[-2:]).is_file():
        case = rest[rest.find("[") :] if "[" in rest else rest
        return f"--pyargs pytest_longctx.suites -k {quote(case)}"
    return quote(str(Path(header.get("root", ""), name)))


def _servers(results: Results) -> Sequence[tuple[Row, str]]:
    """Return every boot with its log events."""
    return [
        (
            boot,
            "; ".join(
                [
                    *(
                        f"{name} {quantity(value, MEASURES[name].unit)}"
                        for name, value in boot.get("figures", {}).items()
                        if name in MEASURES
                    ),
                    *(f"{name} {value}" for name, value in boot.get("words", {}).items()),
                ]
            ),
        )
        for boot in results.boots
    ]
