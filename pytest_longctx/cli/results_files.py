"""``longctx report``, ``merge``, ``compare`` and ``history``: subcommands for results files."""

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pytest_longctx import paths
from pytest_longctx.errors import UsageError, unknown
from pytest_longctx.findings.verdicts import WORST_FIRST, Line
from pytest_longctx.measures import MEASURES
from pytest_longctx.redaction import shown
from pytest_longctx.reports import history, html, png
from pytest_longctx.reports.analysis import CaseKey
from pytest_longctx.reports.compare import COEFFICIENTS, Change, Gate, compare, on_equal_terms
from pytest_longctx.reports.compare import page as comparison_page
from pytest_longctx.reports.exports import aiperf, guidellm, llm_d
from pytest_longctx.reports.exports.workloads import Workload, names, workloads
from pytest_longctx.reports.html import svg
from pytest_longctx.reports.panels import panels
from pytest_longctx.reports.plots import Plot
from pytest_longctx.reports.results import Results, green, merge, write
from pytest_longctx.reports.results import read as read_results


def add(commands: Any) -> None:
    """Add the subcommands about results files to the console parser: report, merge, compare and history."""
    reported: ArgumentParser = commands.add_parser(
        "report", help="export a run as one shareable HTML file, or in the format of another tool"
    )
    reported.add_argument("results", type=Path)
    reported.add_argument(
        "-o",
        "--output",
        type=Path,
        help="HTML file to write, or folder for the other formats; default: next to the results file",
    )
    reported.add_argument(
        "--format",
        choices=("html", *_EXPORTS),
        default="html",
        help="the other formats write a JSON file for each workload",
    )
    reported.add_argument(
        "--baseline", type=Path, metavar="FILE", help="results.jsonl of an earlier run to compare with"
    )
    reported.add_argument("--plots", type=Path, metavar="DIR", help="also write the plots as SVG files to DIR")
    reported.add_argument("--png", action="store_true", help="with --plots: also write PNG files")
    reported.set_defaults(run=_report)
    merged: ArgumentParser = commands.add_parser("merge", help="merge several results files, such as shards, into one")
    merged.add_argument("results", type=Path, nargs="+")
    merged.add_argument("-o", "--output", type=Path, required=True, help="results file to write")
    merged.set_defaults(run=_merge)
    compared: ArgumentParser = commands.add_parser("compare", help="compare two runs and print the changes as Markdown")
    compared.add_argument("before", type=Path, help="results.jsonl of the baseline")
    compared.add_argument("after", type=Path)
    compared.add_argument(
        "--fail-on",
        metavar="MEASURE:N%",
        help="exit 1 if a measured value is worse by more than N %%; separate several limits with commas",
    )
    compared.set_defaults(run=_compare)
    kept: ArgumentParser = commands.add_parser("history", help="store runs, set the baseline, show trends")
    kept.add_argument("what", choices=("add", "baseline", "show"))
    kept.add_argument("store", type=Path, help="folder of the store")
    kept.add_argument("names", nargs="*", help="add: results files; baseline: one run; show: findings")
    kept.add_argument("--measure", default="ttft_s", help="measure for show; default: ttft_s")
    kept.set_defaults(run=_history)
    for parser in (reported, merged, compared, kept):
        parser.add_argument("--json", action="store_true", help="print JSON")


_EXPORTS: Mapping[str, Callable[[Results, Workload], dict[str, Any]]] = MappingProxyType(
    {"llm-d": llm_d.report, "aiperf": aiperf.export, "guidellm": guidellm.report}
)
_UNFIT: Mapping[str, Callable[[Workload], str]] = MappingProxyType({"guidellm": guidellm.unfit})
"""For output formats with restrictions: why the format cannot represent a workload; empty if it can."""


def _report(given: Namespace) -> int:
    if given.format != "html":
        return _exported(given)
    results = read_results(given.results)
    output = given.output or given.results.with_suffix(".html")
    if given.png and not given.plots:
        raise UsageError("--png needs --plots DIR")
    html.write(results, output, read_results(given.baseline) if given.baseline else None)
    plots = [plot for panel in panels(results) for plot in panel.plots] if given.plots else []
    drawn = [path for plot in plots for path in _drawn(plot, given.plots, png_too=given.png)]
    if given.json:
        print(json.dumps({"html": str(output), "plots": list(map(str, drawn))}, indent=1))
    else:
        print(output)
    return 0


def _fits(_: Workload) -> str:
    return ""


def _exported(given: Namespace) -> int:
    """Write each workload of a run in the format of another tool. Return 1 if the run has no workload, else 0."""
    if given.baseline or given.plots or given.png:
        raise UsageError(f"--format {given.format}: --baseline, --plots and --png apply only to HTML")
    results = read_results(given.results)
    folder = given.output or given.results.with_name(given.format)
    made = workloads(results)
    unfit = {each.verdict["test"]: why for each in made.found if (why := _UNFIT.get(given.format, _fits)(each))}
    left_out = {**made.left_out, **unfit}
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, workload in names([each for each in made.found if each.verdict["test"] not in unfit]).items():
        text = json.dumps(_EXPORTS[given.format](results, workload), indent=1, allow_nan=False)
        paths.write(folder / f"{name}.json", text + "\n")
        written.append(str(folder / f"{name}.json"))
    if given.json:
        print(json.dumps({"files": written, "left_out": left_out}, indent=1))
    else:
        print(shown("\n".join(written)), end="\n" if written else "")
        for test, why in left_out.items():
            print(shown(f"longctx: left out: {test}: {why}"), file=sys.stderr)
    return 0 if written else 1


def _drawn(plot: Plot, folder: Path, *, png_too: bool) -> Iterator[Path]:
    """Draw *plot* into files of *folder*, and yield their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{plot.name}.svg"
    path.write_text(svg.paint(plot, alone=True), encoding="utf-8")
    yield path
    if png_too:
        png.write(plot, path.with_suffix(".png"))
        yield path.with_suffix(".png")


def _merge(given: Namespace) -> int:
    parts = {str(path): read_results(path) for path in given.results}
    if len(parts) < len(given.results):
        raise UsageError("merge: the same file is given twice")
    whole = merge(parts)
    write(whole, given.output)
    counts = {word: count for word in WORST_FIRST if (count := whole.footer["verdicts"].get(word))}
    if given.json:
        print(json.dumps({"output": str(given.output), "verdicts": counts, "green": green(whole)}, indent=1))
    else:
        print(f"{given.output}: {', '.join(f'{count} {word}' for word, count in counts.items()) or 'no verdict'}")
    return 0 if green(whole) else 1


def _compare(given: Namespace) -> int:
    before, after = on_equal_terms(read_results(given.before), read_results(given.after))
    missed = Gate.of(before, given.fail_on).missed(after) if given.fail_on else []
    changes = compare(before, after)
    if given.json:
        print(json.dumps(_comparison(changes, missed), indent=1))
    else:
        print(shown("\n".join(comparison_page(before, after, changes, missed))))
    for case, line in missed:
        print(shown(f"longctx: {case.finding} {case.deployment}: {line}"), file=sys.stderr)
    return 1 if missed else 0


def _comparison(changes: Iterable[Change], missed: Iterable[tuple[CaseKey, Line]]) -> dict[str, Any]:
    """Return a comparison as JSON: every figure of either run, and every exceeded limit."""
    rows = [
        {
            **each.case._asdict(),
            "measure": each.measure,
            "change": each.word,
            "before": each.before,
            "after": each.after,
            "worse_by": each.worse_by,
            "noise": each.noise._asdict() if each.noise else None,
        }
        for each in changes
    ]
    over = [{**case._asdict(), "measure": line.measure, "said": str(line), "ok": line.ok} for case, line in missed]
    return {"changes": rows, "over_the_limit": over}


def _history(given: Namespace) -> int:
    if given.what == "show":
        return _trends(given)
    if given.what == "add":
        if not given.names:
            raise UsageError("history add: give at least one results file")
        made = [history.add(given.store, Path(name)) for name in given.names]
    else:
        if len(given.names) != 1:
            raise UsageError("history baseline: give exactly one run")
        made = [str(history.set_baseline(given.store, given.names[0]))]
    print(json.dumps(made) if given.json else "\n".join(made))
    return 0


def _trends(given: Namespace) -> int:
    if given.measure not in (*MEASURES, *COEFFICIENTS):
        raise UsageError(f"--measure: {unknown('measure', given.measure, (*MEASURES, *COEFFICIENTS))}")
    found = [
        trend for finding in given.names or [None] for trend in history.trends(given.store, given.measure, finding)
    ]
    if given.json:
        rows = [
            {
                **each.case._asdict(),
                "measure": each.measure,
                "runs": [point._asdict() for point in each.readings],
                "worse_by": each.worse_by,
                "first_bad": each.first_bad,
            }
            for each in found
        ]
        print(json.dumps(rows, indent=1))
    else:
        print(shown("\n".join(map(str, found))), end="\n" if found else "")
    return 0
