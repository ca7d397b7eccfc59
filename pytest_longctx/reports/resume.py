"""
What an earlier run judged, cut off or not, and what of it still stands.

A verdict stands where all that it hangs on is the same: the finding and the deployment to the letter, the engine, the model, the
hardware, and what the run as a whole was told. What was unmeasured is asked again, and so is what needs no server.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pytest_longctx.errors import UsageError
from pytest_longctx.reports import results

Row = Mapping[str, Any]

OUTCOMES: Mapping[str, str] = {"holds": "passed", "known": "skipped", "broken": "failed"}
"""The verdicts that can be taken over, and how their tests must have ended: else something beside the verdict went wrong."""

_SETTLED_BY_BOOT = ("engine", "model")
"""Facts that may not be known before a boot."""


def conditions(*, longctx: str, launcher: str, load: str, fail_on: str, baseline: Path | None) -> dict[str, str]:
    """What the verdicts of a whole run hang on, as its header keeps it."""
    content = hashlib.sha256(baseline.read_bytes()).hexdigest()[:12] if baseline else ""
    return {"longctx": longctx, "launcher": launcher, "load": load, "fail_on": fail_on, "baseline": content}


class Now(NamedTuple):
    """What a verdict would hang on if its test ran now; an engine or a model that is missing is not known before a boot."""

    content: str
    """The hash of the finding."""
    facts: Mapping[str, str]
    conditions: Mapping[str, str]
    seed: int | None
    """None: any seed will do."""

    @property
    def settled(self) -> bool:
        """Whether nothing is left that only a boot can tell."""
        return all(name in self.facts for name in _SETTLED_BY_BOOT)


class Standing(NamedTuple):
    """An earlier verdict, and what has changed since; it stands where that is nothing."""

    row: Row
    since: str
    """When the run began that wrote it."""
    changes: tuple[str, ...]


class File(NamedTuple):
    """One results file, so that what belongs to a verdict is found at once."""

    header: Row
    whole: bool
    verdicts: Mapping[tuple[str, str, str], Row]
    """By test, finding and deployment: what can be taken over."""
    beside: Mapping[str, list[Row]]
    """Other rows by their test; those of a server, such as boots, by its deployment."""

    @classmethod
    def of(cls, rows: Sequence[Row]) -> "File":
        """From its rows, the header first."""
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
    """An earlier run, and those that it resumed in its turn, the newest first."""

    path: Path
    files: tuple[File, ...]

    @property
    def whole(self) -> bool:
        """Whether it came to its end."""
        return self.files[0].whole

    @property
    def seed(self) -> int | None:
        """Its seed."""
        found = self.files[0].header.get("seed")
        return found if isinstance(found, int) else None

    def standing(self, test: str, finding: str, now: Now) -> Standing | None:
        """What was found of *finding* in *test*; None where it came to nothing that could be taken over."""
        key = (test, finding, now.facts["deployment"])
        file = next((each for each in self.files if key in each.verdicts), None)
        if file is None:
            return None
        row = file.verdicts[key]
        return Standing(row, file.header["started"], tuple(_changes(row, file.header, now)))

    def with_its_own(self, test: str, finding: str, deployment: str) -> Iterator[Row]:
        """A verdict as it was written, and before it what else was written of its server and its test."""
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
    The run at *place*, a results file or the folder of one; None for a folder in which nothing is to be resumed.

    Raises `UsageError` and `ResultsError`.
    """
    path = place / results.NAME if place.is_dir() else place
    if not path.exists():
        # A job that is always told to resume its folder has nothing there the first time.
        if place.suffix == ".jsonl":
            raise UsageError(f"--longctx-resume: there is no file {place}")
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
