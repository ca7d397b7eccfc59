"""``longctx record``: write findings from a run, so that they judge the next run."""

import datetime as dt
import json
import math
import re
import shlex
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pytest_longctx import paths, toml
from pytest_longctx.cli.listing import Data
from pytest_longctx.cli.record.tolerance import Recorded, of_case, warning
from pytest_longctx.cli.toml_text import text_of, write_new
from pytest_longctx.errors import UsageError
from pytest_longctx.findings.finding import Finding, Scope, Source
from pytest_longctx.redaction import shown
from pytest_longctx.reports.analysis import CaseKey
from pytest_longctx.reports.results import Results
from pytest_longctx.reports.results import read as read_results
from pytest_longctx.units import quantity

_PREFIX = re.compile(r"[A-Z]{2,8}")
_LONGEST_NAME: Final = 80
_DATA: Final = "--longctx-data="


@dataclass(frozen=True, slots=True)
class Recording:
    """One recorded finding: its file, its bounds, and the origin of each bound."""

    path: Path
    finding: Finding
    figures: tuple[Recorded, ...]


def add(commands: Any) -> None:
    """Add the subcommand ``longctx record`` to the console parser."""
    parser: ArgumentParser = commands.add_parser(
        "record", help="turn a run into findings: each measured value with a tolerance from the spread of the run"
    )
    parser.add_argument(
        "results", type=Path, nargs="?", default=Path("results/results.jsonl"), help="default: %(default)s"
    )
    parser.add_argument(
        "-o", "--output", type=Path, help="folder for findings/; default: the data folder of the run, or ."
    )
    parser.add_argument("--prefix", default="REC", help="letters before the numbers of the findings; default: REC")
    parser.add_argument("--only", action="append", default=[], metavar="ID", help="record this finding only")
    parser.add_argument(
        "--tolerance", metavar="N%%", help="use this tolerance instead of those computed from the spread"
    )
    parser.add_argument(
        "--data", type=Path, action="append", default=[], help="folder with the run's findings/, if it has moved"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(given: Namespace) -> int:
    """Write a finding for each case of the run that holds and has a figure. Raises `UsageError` if no case does."""
    if _PREFIX.fullmatch(given.prefix) is None:
        raise UsageError(f"--prefix: {given.prefix[:40]!r} must be 2 to 8 capital letters; write for example REC")
    results = read_results(given.results)
    own = tuple(given.data) or _own_data(results)
    folders = paths.data(own, "--data")
    known = Data(folders)
    output = given.output or (own[0] if own else Path())
    made, left_out = recordings(results, known, output / "findings", given.prefix, _share(given.tolerance), given.only)
    if not made:
        raise UsageError(
            "record: no measured value of this run can be recorded\n" + "\n".join(f"  {line}" for line in left_out)
        )
    source = str(given.results)
    write_new(
        {one.path: text_of(one.finding, f"Made by longctx record from {source}; edit it freely.") for one in made}
    )
    again = command(results, output, given.prefix)
    print(
        json.dumps(as_json(made, left_out, again), indent=1)
        if given.json
        else shown("\n".join(lines(made, left_out, again)))
    )
    return 0


def _share(text: str | None) -> float | None:
    if text is None:
        return None
    found = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,6})?)%", text)
    if found is None:
        raise UsageError(f"--tolerance: {text[:40]!r} must be a percentage; write for example 5%")
    return float(found[1]) / 100


def _own_data(results: Results) -> tuple[Path, ...]:
    """Return the run's own data folders that still exist."""
    words = [word.removeprefix(_DATA) for word in results.header.get("options") or () if word.startswith(_DATA)]
    return tuple(Path(folder) for word in words for folder in word.split(",") if Path(folder).is_dir())


def recordings(
    results: Results, known: Data, folder: Path, prefix: str, tolerance: float | None, only: Sequence[str]
) -> tuple[list[Recording], list[str]]:
    """Return the findings that ``longctx record`` writes into *folder*, and a line about each case that it leaves out."""
    cases: dict[CaseKey, list[dict[str, Any]]] = {}
    for row in results.verdicts:
        if row["server"] and (not only or row["finding"] in only):
            cases.setdefault(CaseKey(row["finding"], row["server"].get("deployment", "")), []).append(row)
    if missing := sorted(set(only) - {case.finding for case in cases}):
        raise UsageError(f"--only: the run has not judged {', '.join(missing)}")
    numbers = _free_numbers(prefix, known.findings, folder)
    made, left_out = [], []
    for case, rows in sorted(cases.items()):
        why = _unfit(case, rows, known, prefix)
        found = () if why else tuple(of_case(rows, tolerance))
        figures = tuple(each for each in found if not each.void)
        left_out += [
            f"{case.finding} {case.deployment} {each.measure}: no bound on it could fail; {each.bound.because}"
            for each in found
            if each.void
        ]
        if not figures:
            left_out.append(f"{case.finding} {case.deployment}: {why or 'it has no figure that can be bounded'}")
            continue
        number = next(numbers, None)
        if number is None:
            raise UsageError(f"--prefix: all numbers of {prefix} are taken; choose another prefix")
        finding = recorded(f"{prefix}-{number:04}", known, case, results, figures)
        name = f"{finding.id}-{case.finding}-{case.deployment}".lower()[len(prefix) :][:_LONGEST_NAME]
        made.append(Recording(folder / f"{prefix}{name}.toml", finding, figures))
    return made, left_out


def _free_numbers(prefix: str, findings: Iterable[str], folder: Path) -> Iterator[int]:
    taken = {name.rpartition("-")[2] for name in findings if name.startswith(f"{prefix}-")}
    taken |= {path.name.split("-")[1][:4] for path in folder.glob(f"{prefix}-*.toml")}
    return (number for number in range(1, 10_000) if f"{number:04}" not in taken)


def _unfit(case: CaseKey, rows: Sequence[Mapping[str, Any]], known: Data, prefix: str) -> str:
    """Return why the *case* cannot be recorded; empty if it can."""
    if case.finding.startswith(f"{prefix}-"):
        return "this finding was made by longctx record"
    if words := {row["verdict"] for row in rows} - {"holds"}:
        return f"it is {' and '.join(sorted(words))}; only results that hold are recorded"
    for name, one in known.findings.items():
        if (one.source.where, one.scope.deployment) == (case.finding, (case.deployment,)) and name.startswith(prefix):
            return f"already recorded as {name}; remove that file to record again"
    finding = known.findings.get(case.finding)
    if finding is None:
        return "the finding's file was not found; give its folder with --data"
    return _unlike(finding, rows)


def _unlike(finding: Finding, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return why the verdict *rows* may belong to another content of the *finding*; empty if they belong to this content."""
    if not all(row.get("content") for row in rows):
        return "the run was made with an older version, which did not record the request"
    if any(row["content"] != toml.digest(finding) for row in rows):
        return "the finding's file has changed since the run, so the request is not known"
    return ""


def recorded(name: str, known: Data, case: CaseKey, results: Results, figures: Iterable[Recorded]) -> Finding:
    """Return the finding *name*: the question of the run in *case*, with bounds from the *figures* that it measured."""
    asked, server = known.findings[case.finding], _server(results, case)
    day = _day(results)
    machine = results.header.get("machine", {})
    where = ", ".join(filter(None, (machine.get("devices", ""), machine.get("host_cpu_name", ""))))
    hardware = server.get("hardware")
    named = known.deployments.get(case.deployment)
    fixed = hardware if named is None or named.hardware in (None, hardware) else named.hardware
    scope = Scope(deployment=(case.deployment,), hardware=None if fixed in (None, "", "unknown") else fixed)
    changes = {
        "id": name,
        "title": f"{asked.title}, as recorded on {case.deployment}",
        "status": "confirmed",
        "reviewed": day,
        "source": Source(document=f"the run of {results.header['started']}", where=case.finding, date=day),
        "scope": scope,
        "bounds": {**asked.bounds, **{each.measure: each.bound for each in figures}},
        "note": f"Recorded on {where or 'a machine that is not named'} with {server.get('engine', 'an unknown engine')}; "
        "times hold for that machine.",
    }
    return toml.check({**asked.model_dump(by_alias=True), **_dumped(changes)}, Finding, name)


def _day(results: Results) -> dt.date:
    """Return the day of the run. Raises `UsageError` if its header has none."""
    try:
        return dt.date.fromisoformat(results.header["started"][:10])
    except ValueError:
        raise UsageError(
            f"the results file does not state the date of the run: in the header, started = {results.header['started'][:40]!r}"
        ) from None


def _dumped(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the *changes* with their tables as plain data."""
    plain: dict[str, Any] = {}
    for key, value in changes.items():
        if isinstance(value, toml.Table):
            plain[key] = value.model_dump(by_alias=True)
        elif isinstance(value, dict):
            plain[key] = _dumped(value)
        else:
            plain[key] = value
    return plain


def _server(results: Results, case: CaseKey) -> Mapping[str, str]:
    found: Mapping[str, str] = next(
        row["server"]
        for row in results.verdicts
        if (row["finding"], row["server"].get("deployment", "")) == (case.finding, case.deployment)
    )
    return found


def command(results: Results, folder: Path, prefix: str) -> str:
    """Return the command that judges the next run by the recorded findings."""
    options = [word for word in results.header.get("options") or () if not word.startswith(_DATA)]
    own = dict.fromkeys(map(str, (*_own_data(results), folder.absolute())))
    words = ["pytest", "--pyargs", "pytest_longctx.suites", *options, f"{_DATA}{','.join(own)}", "-k", f"{prefix}-"]
    return shlex.join(words)


def lines(made: Iterable[Recording], left_out: Iterable[str], again: str) -> Iterable[str]:
    """Yield the summary of the recorded findings for a terminal."""
    for one in made:
        yield f"{one.path}: {one.finding.title}"
        for each in one.figures:
            reference = quantity(each.bound.reference or 0.0, each.bound.unit)
            yield f"  {each.measure:<20} {reference}; {each.seen}"
        if warned := warning(one.figures):
            yield f"  warning: {warned}"
    yield from (f"left out: {line}" for line in left_out)
    yield f"judge the next run by them: {again}"


def as_json(made: Iterable[Recording], left_out: Iterable[str], again: str) -> dict[str, Any]:
    """Return the summary of the recorded findings as JSON."""
    rows = [
        {
            "file": str(one.path),
            "finding": one.finding.id,
            "bounds": {each.measure: each.bound.model_dump(mode="json", exclude_none=True) for each in one.figures},
            "slowdown_seen": {
                each.measure: each.visible for each in one.figures if each.visible not in (None, math.inf)
            },
            "warning": warning(one.figures),
        }
        for one in made
    ]
    return {"recorded": rows, "left_out": list(left_out), "again": again}
