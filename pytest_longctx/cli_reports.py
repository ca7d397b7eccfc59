"""The part of the console command that reads results files: ``report``, ``merge``, ``compare``, ``history``."""

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from pytest_longctx.errors import UsageError, unknown
from pytest_longctx.findings.verdicts import WORST_FIRST
from pytest_longctx.measures import MEASURES
from pytest_longctx.reports import compare as reports_compare
from pytest_longctx.reports import history, html, plots
from pytest_longctx.reports import results as results_file
from pytest_longctx.reports.compare import COEFFICIENTS, Gate, compare
from pytest_longctx.reports.panels import panels


def add(commands: Any) -> None:
    """Declare the commands; each keeps the function that runs it as ``run``, which returns an exit code."""
    shown: ArgumentParser = commands.add_parser("report", help="show a results file as one HTML page")
    shown.add_argument("results", type=Path)
    shown.add_argument("-o", "--output", type=Path, help="the page; default: beside the results")
    shown.add_argument("--plots", type=Path, metavar="DIR", help="write the plots as SVG files too")
    shown.add_argument("--png", action="store_true", help="with --plots: as PNG files as well")
    shown.set_defaults(run=_report)
    merged: ArgumentParser = commands.add_parser("merge", help="make one results file of several, such as shards")
    merged.add_argument("results", type=Path, nargs="+")
    merged.add_argument("-o", "--output", type=Path, required=True, help="the results file to write")
    merged.set_defaults(run=_merge)
    compared: ArgumentParser = commands.add_parser("compare", help="what changed between two runs, as Markdown")
    compared.add_argument("before", type=Path, help="results.jsonl of the baseline")
    compared.add_argument("after", type=Path)
    compared.add_argument(
        "--fail-on", metavar="MEASURE:N%", help="exit 1 where a figure is worse by more; several with commas"
    )
    compared.set_defaults(run=_compare)
    kept: ArgumentParser = commands.add_parser("history", help="keep runs, set a baseline, show trends")
    kept.add_argument("what", choices=("add", "baseline", "show"))
    kept.add_argument("store", type=Path, help="a folder")
    kept.add_argument("names", nargs="*", help="add: results files; baseline: one run; show: findings")
    kept.add_argument("--measure", default="ttft_s", help="for show; default ttft_s")
    kept.set_defaults(run=_history)


def _report(given: Namespace) -> int:
    results = results_file.read(given.results)
    output = given.output or given.results.with_suffix(".html")
    if given.png and not given.plots:
        raise UsageError("--png: say where the plots go: --plots DIR")
    html.write(results, output)
    print(output)
    for plot in (plot for panel in panels(results) for plot in panel.plots) if given.plots else ():
        given.plots.mkdir(parents=True, exist_ok=True)
        (given.plots / f"{plot.name}.svg").write_text(plots.paint(plot, alone=True), encoding="utf-8")
        if given.png:
            plots.write(plot, given.plots / f"{plot.name}.png")
    return 0


def _merge(given: Namespace) -> int:
    parts = {str(path): results_file.read(path) for path in given.results}
    if len(parts) < len(given.results):
        raise UsageError("merge: the same file was named twice")
    whole = results_file.merge(parts)
    results_file.write(whole, given.output)
    counts = ", ".join(f"{count} {word}" for word in WORST_FIRST if (count := whole.footer["verdicts"].get(word)))
    print(f"{given.output}: {counts or 'no verdict'}")
    return 0 if results_file.green(whole) else 1


def _compare(given: Namespace) -> int:
    before, after = reports_compare.on_equal_terms(results_file.read(given.before), results_file.read(given.after))
    missed = Gate.of(before, given.fail_on).missed(after) if given.fail_on else []
    print("\n".join(reports_compare.page(before, after, compare(before, after), missed)))
    for case, line in missed:
        print(f"longctx: {case.finding} {case.deployment}: {line}", file=sys.stderr)
    return 1 if missed else 0


def _history(given: Namespace) -> int:
    if given.what == "add":
        if not given.names:
            raise UsageError("history add: name the results files")
        for name in given.names:
            print(history.add(given.store, Path(name)))
    elif given.what == "baseline":
        if len(given.names) != 1:
            raise UsageError("history baseline: name one run")
        print(history.set_baseline(given.store, given.names[0]))
    else:
        if given.measure not in (*MEASURES, *COEFFICIENTS):
            raise UsageError(f"--measure: {unknown('measure', given.measure, (*MEASURES, *COEFFICIENTS))}")
        for finding in given.names or [None]:
            for trend in history.trends(given.store, given.measure, finding):
                print(trend)
    return 0
