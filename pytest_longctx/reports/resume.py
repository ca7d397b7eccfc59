"""
Verdicts of an earlier, possibly aborted, run, and the check whether they are still valid.

A verdict is valid if everything it depends on is unchanged: the text of the finding and of the deployment, the engine, the
model, the hardware and the options of the run. Cases that were not measured, and cases that need no server, are judged
again.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pytest_longctx.errors import UsageError
from pytest_longctx.reports import results

Row = Mapping[str, Any]

OUTCOMES: Mapping[str, str] = {"holds": "passed", "known": "skipped", "broken": "failed"}
"""
Verdicts that can be taken over, and the test outcome each requires. Another outcome means that something other
than the verdict failed.
"""

_SETTLED_BY_BOOT = ("engine", "model")
"""Facts that may be unknown before a boot."""


def conditions(*, longctx: str, launcher: str, load: str, fail_on: str, baseline: Path | None) -> dict[str, str]:
    """
    Return the conditions that a resumed run compares: the options on which all verdicts depend, as stored in the
    header.
    """
    content = hashlib.sha256(baseline.read_bytes()).hexdigest()[:12] if baseline else ""
    return {"longctx": longctx, "launcher": launcher, "load": load, "fail_on": fail_on, "baseline": content}


class Now(NamedTuple):
    """Current values of all facts on which a verdict depends. Engine and model may be unknown before a boot."""

    content: str
    """Hash of the finding."""
    facts: Mapping[str, str]
    conditions: Mapping[str, str]
    seed: int | None
    """Seed; ``None`` accepts any seed."""

    @property
    def settled(self) -> bool:
        """Whether all facts that need a boot are known, so that an earlier verdict can be taken over."""
        return all(name in self.facts for name in _SETTLED_BY_BOOT)


class Standing(NamedTuple):
    """An earlier verdict and the changes since. Without changes, the verdict is valid."""

    row: Row
    since: str
    """Start of the run that wrote the verdict."""
    changes: tuple[str, ...]


class File(NamedTuple):
    """Index of one results file, for direct access to all rows that belong to a verdict."""

    header: Row
    whole: bool
    verdicts: Mapping[tuple[str, str, str], Row]
    """Verdicts that can be taken over, by test, finding and deployment."""
    beside: Mapping[str, list[Row]]
    """Other rows by test; rows of a server, such as boots, by deployment."""

    @classmethod
    def of(cls, rows: Sequence[Row]) -> "File":
        """Return the index of an earlier run's results file from its rows, header first."""
        verdicts: dict[tuple[str, str, str], Row] = {}
        beside: dict[str, list[Row]] = {}
        for row in rows[1:]:
            if row["kind"] == "verdict":
                if OUTCOMES.get(row["verdict"]) == row.get("outcome") and "deployment" in row["server"]:
                    verdicts[row["test"], row["finding"], row["server"]["deployment"]] = row
            elif row["kind"] != "footer":
                beside.setdefault(row.get("test") or row.get("deployment", ""), []).append(row)
        return cls(rows[0], rows[-1]["kind"] == "footer", verdicts, beside)


class Earlier(NamedTuple):
    """An earlier run and the runs it resumed, newest first."""

    path: Path
    files: tuple[File, ...]

    @property
    def whole(self) -> bool:
        """Whether the earlier run finished."""
        return self.files[0].whole

    @property
    def seed(self) -> int | None:
        """Seed of the earlier run; None if not recorded."""
        found = self.files[0].header.get("seed")
        return found if isinstance(found, int) else None

    def standing(self, test: str, finding: str, now: Now) -> Standing | None:
        """Return the earlier verdict on *finding* in *test*; ``None`` if the earlier run has none that can be reused."""
        key = (test, finding, now.facts["deployment"])
        file = next((each for each in self.files if key in each.verdicts), None)
        if file is None:
            return None
        row = file.verdicts[key]
        return Standing(row, file.header["started"], tuple(_changes(row, file.header, now)))

    def with_its_own(self, test: str, finding: str, deployment: str) -> Iterator[Row]:
        """Yield an earlier verdict as written, after the other rows of its server and its test."""
        key = (test, finding, deployment)
        for file in self.files:
            if key in file.verdicts:
                row = file.verdicts[key]
                yield from file.beside.get(deployment, ())
                yield from file.beside.get(test, ())
                yield {**row, "carried": row.get("carried") or file.header["started"]}
                return


def _changes(row: Row, header: Row, now: Now) -> Iterator[str]:
    if row.get("content") != now.content:
        yield "the finding has changed"
    then = row["server"]
    for name, value in now.facts.items():
        if then.get(name) != value:
            changed = (
                "the deployment has changed" if name == "configuration" else f"{name}: {then.get(name)}, now {value}"
            )
            yield changed
    if now.seed is not None and then.get("seed") != str(now.seed):
        yield f"seed: {then.get('seed')}, now {now.seed}"
    before = header.get("conditions", {})
    for name, value in now.conditions.items():
        if before.get(name) != value:
            yield f"{name.replace('_', '-')}: {before.get(name) or 'none'}, now {value or 'none'}"


def read(place: Path) -> Earlier | None:
    """
    Return the earlier run to resume at *place*, a results file or its folder; ``None`` for a folder without a run.

    Raises `UsageError` and `ResultsError`.
    """
    path = place / results.NAME if place.is_dir() else place
    if not path.exists():
        # A CI job that always resumes its folder finds it empty the first time.
        if place.suffix == ".jsonl":
            raise UsageError(f"--longctx-resume: file not found: {place}")
        return None
    files, seen = [File.of(results.begun(path))], {path.resolve()}
    while not files[-1].whole and "resumes" in files[-1].header:
        before = (path.parent / files[-1].header["resumes"]).resolve()
        if before in seen or not before.exists():
            break
        seen.add(before)
        files.append(File.of(results.begun(before)))
        path = before
    return Earlier(place / results.NAME if place.is_dir() else place, tuple(files))
