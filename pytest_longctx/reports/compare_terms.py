"""
Two backends side by side: only what both were asked on equal terms, the same prompts, cache and decoding on the same machine.

What a run did not record is not known to be equal.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from statistics import median
from typing import Any

from pytest_longctx.errors import UsageError
from pytest_longctx.findings.verdicts import COLD_SHARE, JUDGED
from pytest_longctx.reports.results import Results

RECORDED = ("hardware", "model", "seed", "ordinary_ids", "decoding")
"""Facts of a server that must be the same; seed and ids decide the prompts."""
COUNTED = ("prompt_tokens", "completion_tokens")
_SHOWN = 3


def on_equal_terms(before: Results, after: Results) -> tuple[Results, Results]:
    """
    Two runs of one backend as they are; of two backends, the findings that both judged, under one name of deployment.

    Raises `UsageError` with every term that differs.
    """
    names = [str(run.header.get("backend")) for run in (before, after)]
    if names[0] == names[1]:
        return before, after
    old, new = _by_finding(before), _by_finding(after)
    common = sorted(old.keys() & new.keys())
    unlike: dict[str, list[str]] = {}
    for finding in common:
        for term in _differing(old[finding], new[finding]):
            unlike.setdefault(term, []).append(finding)
    called = " and ".join(names)
    if unlike:
        lines = (f"  {term} ({_some(findings)})" for term, findings in unlike.items())
        raise UsageError(
            "\n".join(
                (
                    f"compare: {called} are compared on equal terms only; these differ, or are not known to be equal:",
                    *lines,
                    "  try      two new runs on one machine, of the same model and with the same --longctx-seed",
                )
            )
        )
    if not common:
        raise UsageError(f"compare: {called} have judged no finding in common")
    return _cut(before, common, names), _cut(after, common, names)


def _by_finding(run: Results) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in run.verdicts:
        # A claim is about no server and the same for every backend.
        if row["verdict"] in JUDGED and row["server"]:
            found.setdefault(row["finding"], []).append(row)
    return found


def _differing(old: list[Mapping[str, Any]], new: list[Mapping[str, Any]]) -> Iterator[str]:
    """Every term that is not known to be the same in the rows of one finding."""
    for rows in (old, new):
        deployments = sorted({row["server"].get("deployment", "") for row in rows})
        if len(deployments) > 1:
            yield f"judged on more than one deployment: {', '.join(deployments)}"
    for name in RECORDED:
        here, there = ({row["server"].get(name) for row in rows} for rows in (old, new))
        if here != there or None in here:
            yield f"{name}: {_told(here)} against {_told(there)}"
    for name in COUNTED:
        here, there = ({row["measured"].get(name) for row in rows} for rows in (old, new))
        if here != there:
            yield f"{name}: {_told(here)} against {_told(there)}"
    states = [_cache(rows) for rows in (old, new)]
    if states[0] != states[1]:
        yield f"cache: {states[0]} against {states[1]}"


def _cache(rows: list[Mapping[str, Any]]) -> str:
    shares = [row["measured"]["cached_share"] for row in rows if "cached_share" in row["measured"]]
    if not shares:
        return "not recorded"
    return "cold" if median(shares) <= COLD_SHARE else "warm"


def _told(values: set[Any]) -> str:
    known = [f"{value:,.0f}" if isinstance(value, float) else str(value) for value in values if value is not None]
    return " and ".join(sorted(known)) or "not recorded"


def _some(findings: list[str]) -> str:
    more = len(findings) - _SHOWN
    return ", ".join(findings[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _cut(run: Results, findings: list[str], names: list[str]) -> Results:
    """*run* with these findings alone, as if its deployment had the name of both backends."""
    rows = [
        {**row, "server": {**row["server"], "deployment": " : ".join(names)}}
        for row in run.verdicts
        if row["finding"] in findings and row["server"]
    ]
    return replace(run, verdicts=rows)
