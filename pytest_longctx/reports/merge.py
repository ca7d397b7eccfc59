"""Several results files as one: the shards of a run, or runs that judged different things under the same conditions."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from pytest_longctx.errors import ResultsError
from pytest_longctx.findings.verdicts import JUDGED
from pytest_longctx.reports.results import Results

_SAME = ("backend", "launcher", "hardware", "conditions")
"""What the headers of the parts of a whole agree on."""


def merge(parts: Mapping[str, Results]) -> Results:
    """
    One run of *parts*, by their names.

    Raises `ResultsError` where they differ in their conditions, share a case, or are not all the shards of one split.
    """
    (first, whole), *others = parts.items()
    for name, part in others:
        for key in _SAME:
            if part.header.get(key) != whole.header.get(key):
                found = f"{whole.header.get(key)!r} and {part.header.get(key)!r}"
                raise ResultsError(f"{first} and {name} are no parts of one run: {key} differs: {found}")
    _check_shards(parts)
    _check_cases(parts)
    every = list(parts.values())
    footer = {
        "kind": "footer",
        "finished": max(part.footer["finished"] for part in every),
        "exit_code": max(part.footer["exit_code"] for part in every),
        "verdicts": dict(sum((Counter(part.footer["verdicts"]) for part in every), Counter())),
    }
    header = {**whole.header, "started": min(part.header["started"] for part in every), "merged": list(parts)}
    return Results(
        header,
        footer,
        *(
            list(chain.from_iterable(getattr(part, kind) for part in every))
            for kind in ("boots", "verdicts", "requests", "vitals", "retrievals")
        ),
    )


def green(results: Results) -> bool:
    """Whether no part was red, and something was judged on a server."""
    judged = any(row["verdict"] in JUDGED[:3] and row["server"] for row in results.verdicts)
    return judged and not results.footer["exit_code"]


def _check_shards(parts: Mapping[str, Results]) -> None:
    told: dict[str, Mapping[str, Any]] = {
        name: part.footer["shard"] for name, part in parts.items() if "shard" in part.footer
    }
    if not told:
        return
    if len({its["split"] for its in told.values()}) > 1:
        each = ", ".join(f"{name} {its['shard']} of split {its['split']}" for name, its in told.items())
        raise ResultsError(
            f"these shards were not split alike, so together they are no whole: {each}\n"
            "  try      the same options, findings, package and hardware for every shard"
        )
    there = Counter(its["shard"] for its in told.values())
    count = int(next(iter(there)).partition("/")[2])
    wanted = [f"{index}/{count}" for index in range(1, count + 1)]
    if lacking := [shard for shard in wanted if shard not in there]:
        raise ResultsError(f"shards are missing: {', '.join(lacking)}; found {', '.join(sorted(there))}")
    if len(told) < len(parts):
        raise ResultsError(f"no shard: {', '.join(name for name in parts if name not in told)}")


def _check_cases(parts: Mapping[str, Results]) -> None:
    owner: dict[Sequence[str], str] = {}
    for name, part in parts.items():
        for row in part.verdicts:
            case = (row["test"], row["finding"], row["server"].get("deployment", ""))
            other = owner.setdefault(case, name)
            if other != name:
                raise ResultsError(f"{other} and {name} both hold {row['finding']} of {row['test']}")
