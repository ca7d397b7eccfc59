"""Write, read and merge ``results.jsonl`` files."""

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import chain, count
from pathlib import Path
from typing import Any, TextIO

from pytest_longctx import paths, toml
from pytest_longctx.errors import ResultsError
from pytest_longctx.findings.verdicts import JUDGED
from pytest_longctx.redaction import cleaned
from pytest_longctx.reports import rows
from pytest_longctx.reports.properties import Entry

SCHEMA = 1
NAME = "results.jsonl"
KINDS = tuple(rows.BETWEEN)


class Writer:
    """Writer of one run's results file, line by line, so that an aborted run loses no measurement."""

    def __init__(self, folder: Path, header: Mapping[str, Any], resumes: Path | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / NAME
        while (file := _new(self.path)) is None:
            stamp = datetime.fromtimestamp(self.path.stat().st_mtime, UTC).strftime("%Y%m%dT%H%M%SZ")
            names = (f"results.{stamp}{more}.jsonl" for more in chain([""], (f"-{i}" for i in count(2))))
            kept = next(folder / name for name in names if not (folder / name).exists())
            resumes = kept if resumes and resumes.resolve() == self.path.resolve() else resumes
            self.path.rename(kept)
        if resumes is not None:
            header = {**header, "resumes": os.path.relpath(resumes, folder)}
        self._file: TextIO = file
        self._id = os.fstat(file.fileno()).st_ino
        self._counts: dict[str, int] = {}
        self._taken: set[str] = set()
        self._line({"kind": "header", "schema": SCHEMA, "started": now(), **header})

    def boot(self, boot: Mapping[str, Any]) -> None:
        """Write one boot, successful or not, to the results file."""
        self._line({"kind": "boot", **boot})

    def request(self, test: str, request: Mapping[str, Any]) -> None:
        """Write one request or one load to the results file, with the test that sent it."""
        self._line({"kind": "request", "test": test, **request})

    def vitals(self, vitals: Mapping[str, Any]) -> None:
        """Write one vitals sample of a server and its machine to the results file."""
        self._line({"kind": "vitals", **vitals})

    def found(self, test: str, place: Mapping[str, Any]) -> None:
        """Write one needle position of one prompt to the results file, with its score."""
        self._line({"kind": "retrieval", "test": test, **place})

    def drift(self, test: str, stretch: Mapping[str, Any]) -> None:
        """Write one stretch of the curve of a 'drift' finding to the results file."""
        self._line({"kind": "drift", "test": test, **stretch})

    def verdict(self, test: str, outcome: str, duration_s: float, entry: Entry) -> None:
        """Write a verdict to the results file, with the test that produced it."""
        self._counts[entry.verdict] = self._counts.get(entry.verdict, 0) + 1
        self._line(
            {"kind": "verdict", "test": test, "outcome": outcome, "duration_s": round(duration_s, 6), **asdict(entry)}
        )

    def carry(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write rows of an earlier results file unchanged, each once."""
        for row in rows:
            line = json.dumps(row)
            if line in self._taken:
                continue
            self._taken.add(line)
            if row["kind"] == "verdict":
                self._counts[row["verdict"]] = self._counts.get(row["verdict"], 0) + 1
            self._line(row)

    def close(self, exit_code: int, **more: Any) -> None:
        """Write the footer of the results file and close the file."""
        self._line({"kind": "footer", "finished": now(), "exit_code": exit_code, "verdicts": self._counts, **more})
        self._file.close()

    def place(self) -> Path:
        """Return the current path of this run's results file, because a later run in the same folder renames the file."""
        files = (self.path, *self.path.parent.glob("results.*.jsonl"))
        return next((path for path in files if path.exists() and path.stat().st_ino == self._id), self.path)

    def drop(self) -> None:
        """Close the results file without a footer. The missing footer marks the run as interrupted."""
        with suppress(OSError):
            self._file.close()

    def _line(self, row: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(cleaned(row), default=dict, allow_nan=False) + "\n")
        self._file.flush()


def _new(path: Path) -> TextIO | None:
    """Create the results file at *path*, and return it; None if the file already exists."""
    try:
        return path.open("x", encoding="utf-8")
    except FileExistsError:
        return None


def now() -> str:
    """Return the current time in the format of results files."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, slots=True)
class Results:
    """The content of a complete results file: its header, boots, verdicts and other rows."""

    header: dict[str, Any]
    footer: dict[str, Any]
    boots: list[dict[str, Any]] = field(default_factory=list)
    verdicts: list[dict[str, Any]] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    vitals: list[dict[str, Any]] = field(default_factory=list)
    retrievals: list[dict[str, Any]] = field(default_factory=list)
    drifts: list[dict[str, Any]] = field(default_factory=list)


def write(results: Results, path: Path) -> None:
    """Write *results* to a results file at *path*."""
    between = (
        *(results.boots, results.requests, results.vitals, results.retrievals, results.drifts),
        results.verdicts,
    )
    whole = (results.header, *chain.from_iterable(between), results.footer)
    paths.write(path, "".join(f"{json.dumps(cleaned(row))}\n" for row in whole))


def begun(path: Path) -> list[dict[str, Any]]:
    """
    Return every row of the results file at *path*, header first, even of an unfinished run. Raises `ResultsError`.

    An incomplete last line, as a killed run leaves it, is dropped.
    """
    return _checked(path, _rows(path))


def read(path: str | Path) -> Results:
    """
    Return the content of the results file at *path*. Raises `ResultsError` if the file is no results file, or is
    incomplete.
    """
    path = Path(path)
    found = _rows(path)
    if found[-1].get("kind") != "footer":
        raise ResultsError(f"{path}: the footer is missing: the run was cut off after {len(found) - 1} lines")
    sound = _checked(path, found)
    return Results(sound[0], sound[-1], *([row for row in sound if row["kind"] == kind] for kind in KINDS))


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        *lines, last = toml.bytes_of(path).splitlines() or [b""]
        found = [_parsed(line) for line in lines]
    except (OSError, ValueError) as problem:
        raise ResultsError(f"{path}: {getattr(problem, 'strerror', None) or problem}") from None
    try:
        found.append(_parsed(last))
    except ValueError as problem:
        if not found:
            raise ResultsError(f"{path}: must be a results file of schema {SCHEMA}: {problem}") from None
    if not all(isinstance(row, dict) for row in found):
        raise ResultsError(f"{path}: must be a results file, in which each line is a JSON object")
    if found[0].get("kind") != "header" or found[0].get("schema") != SCHEMA:
        raise ResultsError(f"{path}: must be a results file of schema {SCHEMA}: its first line must be the header")
    return found


def _parsed(line: bytes) -> Any:
    """Return the value of one line of a results file. Raises `ValueError`, also for nesting that is too deep."""
    try:
        row = json.loads(line)
    except RecursionError:
        raise ValueError("JSON is nested too deeply") from None
    toml.refuse_deep(row)
    return row


def _checked(path: Path, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """
    Return the rows *found* in a results file with plain text, after a check. The header is checked last, because a
    wrong row explains more.
    """
    for number, row in (*enumerate(found[1:], 2), (1, found[0])):
        rows.check(path, number, row)
    return [cleaned(row) for row in found]


_SAME = ("backend", "launcher", "hardware", "conditions")
"""Header fields that must be equal in all parts of a run."""


def merge(parts: Mapping[str, Results]) -> Results:
    """
    Return the results *parts*, given by name, merged into one run.

    Raises `ResultsError` if their conditions differ, if they share a case, or if they are not all shards of one split.
    """
    (first, whole), *others = parts.items()
    for name, part in others:
        for key in _SAME:
            if part.header.get(key) != whole.header.get(key):
                found = f"{whole.header.get(key)!r} and {part.header.get(key)!r}"
                raise ResultsError(f"{first} and {name} belong to different runs: {key} differs: {found}")
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
            for kind in ("boots", "verdicts", "requests", "vitals", "retrievals", "drifts")
        ),
    )


def green(results: Results) -> bool:
    """Return whether the results are green: no part is red and at least one server was judged."""
    judged = any(row["verdict"] in JUDGED[:3] and row["server"] for row in results.verdicts)
    return judged and not results.footer["exit_code"]


def _check_shards(parts: Mapping[str, Results]) -> None:
    shards: dict[str, Mapping[str, Any]] = {
        name: part.footer["shard"] for name, part in parts.items() if part.footer.get("shard")
    }
    if not shards:
        return
    if len({its["split"] for its in shards.values()}) > 1:
        each = ", ".join(f"{name} {its['shard']} of split {its['split']}" for name, its in shards.items())
        raise ResultsError(
            f"these shards come from different splits, so they cannot be merged: {each}\n"
            "  try      the same options, findings, package and hardware for every shard"
        )
    there = Counter(its["shard"] for its in shards.values())
    count = int(next(iter(there)).partition("/")[2])
    wanted = [f"{index}/{count}" for index in range(1, count + 1)]
    if lacking := [shard for shard in wanted if shard not in there]:
        raise ResultsError(f"shards are missing: {', '.join(lacking)}; found {', '.join(sorted(there))}")
    if len(shards) < len(parts):
        raise ResultsError(f"these files are not shards: {', '.join(name for name in parts if name not in shards)}")


def _check_cases(parts: Mapping[str, Results]) -> None:
    owner: dict[Sequence[str], str] = {}
    for name, part in parts.items():
        for row in part.verdicts:
            case = (row["test"], row["finding"], row["server"].get("deployment", ""))
            other = owner.setdefault(case, name)
            if other != name:
                raise ResultsError(f"{other} and {name} both hold {row['finding']} of {row['test']}")
