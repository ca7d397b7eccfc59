"""Deselect tests without a deployment in this run, and explain why a run selected fewer tests than intended."""

import re
from collections.abc import Generator, Iterable, Iterator, Sequence
from difflib import get_close_matches
from itertools import chain
from shlex import join
from typing import Any

import pytest

from pytest_longctx import paths
from pytest_longctx.errors import LongctxError
from pytest_longctx.findings.finding import Finding
from pytest_longctx.plugin.selection import Selection
from pytest_longctx.plugin.session import Session
from pytest_longctx.redaction import masked

SUITES = "--pyargs pytest_longctx.suites"
_SHOWN = 3
"""Most names in a message. The rest is counted."""
_OPERATORS = frozenset({"and", "or", "not", "True", "False", "None"})


def has_nothing_to_judge(item: pytest.Item) -> bool:
    """
    Return whether a test is to be deselected because pytest inserted a placeholder for its empty set of cases. The
    result is False for another plugin's "deployment".
    """
    params = item.callspec.params if hasattr(item, "callspec") else {}
    return type(params.get("deployment")).__name__ == "NotSetType"


def markers_in(expression: str) -> list[str]:
    """
    Return the markers that a ``-m`` expression names, without the markers' arguments.

    >>> markers_in('ten_million and not (fp8 or device(kind="H200"))')
    ['ten_million', 'fp8', 'device']
    """
    plain = re.sub(r"\([^()]*=[^()]*\)", "", expression)
    return [name for name in re.findall(r"[^\W\d]\w*", plain) if name not in _OPERATORS]


def words_in(expression: str) -> list[str]:
    """
    Return the words that a ``-k`` expression searches in the names of tests.

    >>> words_in("LC-0001 or not (smoke)")
    ['LC-0001', 'smoke']
    """
    return [word for word in re.findall(r"[^\s()]+", expression) if word not in _OPERATORS]


class Deselecting:
    """Plugin that explains why tests were deselected. An xdist worker reports its explanation to the controller."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.lines: list[str] = []
        self._idle: list[pytest.Item] = []
        self._told = False

    def leave_out(self, items: list[pytest.Item]) -> None:
        """Deselect the tests for which this run has no deployment."""
        certifies = self.session.options.launcher.startswith("url:")
        self._idle = [
            item
            for item in items
            if has_nothing_to_judge(item) or (item.get_closest_marker("certificate") and not certifies)
        ]
        if self._idle:
            self.session.config.hook.pytest_deselected(items=self._idle)
            items[:] = [item for item in items if item not in self._idle]

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        """Reject an unknown marker in ``-m`` before collection if markers are strict, because no test can have the marker."""
        config = self.session.config
        if hasattr(config, "workerinput") or not _strict(config):
            return
        wrong = [
            f"-m: {_unknown(name, self._registered)}"
            for name in markers_in(config.option.markexpr)
            if name not in self._registered
        ]
        if wrong:
            raise pytest.UsageError("\n".join(wrong))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> Generator[None]:
        """Compare the collected tests with those still selected after all other hooks, and explain deselected ones."""
        collected = list(items)
        yield
        self.lines = [*self._misspelt(collected, left=bool(items)), *self._unanswered()]
        if not items and not self.session.options.shard:
            self.lines += self._nothing(collected)
        if hasattr(config, "workeroutput"):
            config.workeroutput["longctx_deselected"] = self.lines

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Store the deselection messages of one xdist worker. Because all workers collect the same tests, one suffices."""
        self.lines = getattr(node, "workeroutput", {}).get("longctx_deselected", self.lines)

    def pytest_report_collectionfinish(self) -> list[str]:
        """Show the deselection messages before the tests run, which may take hours."""
        self._told = True
        return [f"longctx: {line}" for line in self.lines]

    @pytest.hookimpl(tryfirst=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Show the deselection messages at the end of a run with xdist workers."""
        for line in () if self._told else self.lines:
            terminalreporter.write_line(f"longctx: {line}", yellow=True)

    @property
    def _registered(self) -> set[str]:
        return {re.split(r"[(:]", line)[0].strip() for line in self.session.config.getini("markers")}

    def _misspelt(self, collected: Sequence[pytest.Item], *, left: bool) -> Iterator[str]:
        option = self.session.config.option
        known = self._registered | {marker.name for item in collected for marker in item.iter_markers()}
        for name in markers_in(option.markexpr):
            # A project may exclude, by `not`, a marker that none of its tests carries.
            meant = left and "not" in option.markexpr.split() and not get_close_matches(name, known)
            if name not in known and not meant:
                yield f"-m: {_unknown(name, known)}"
        words = words_in(option.keyword)
        if not words or (left and "not" in option.keyword.split()):
            return
        names = " ".join(_names(item) for item in collected).lower()
        for word in words:
            if word.lower() not in names:
                yield f"-k: no collected test is named {word}; {self._near(word, collected)}"

    def _near(self, word: str, collected: Sequence[pytest.Item]) -> str:
        """
        Return the finding, case or test nearest to a ``-k`` *word*. For a known finding, return why no test judges it
        here.
        """
        chosen = self.session.selection
        if finding := chosen.findings.get(word.upper()):
            return _why_not(chosen, finding)
        own = {getattr(item, "originalname", item.name) for item in collected}
        cases = {item.callspec.id for item in collected if hasattr(item, "callspec")}
        names = {name.lower(): name for name in (*cases, *own, *chosen.known_deployments, *chosen.findings)}
        near = [names[name] for name in get_close_matches(word.lower(), names, n=_SHOWN)]
        return f"did you mean {' or '.join(near)}?" if near else "pytest --collect-only -q lists them"

    def _unanswered(self) -> Iterator[str]:
        """Yield the reasons why a project's own tests were deselected. Tests of the suites need no reason."""
        why: dict[str, list[str]] = {}
        for item in self._idle:
            if not _is_ours(item):
                why.setdefault(self._why_idle(item), []).append(item.nodeid.partition("[")[0])
        for reason, tests in why.items():
            yield f"{_few(tests)} will not run: {reason}"

    def _why_idle(self, item: pytest.Item) -> str:
        chosen = self.session.selection
        named, asked = item.get_closest_marker("finding"), item.get_closest_marker("judges")
        try:
            if named is not None:
                return "; ".join(f"{name} {_why_not(chosen, chosen.findings[name])}" for name in named.args)
            if asked is not None:
                return f"no finding with the question {asked.args[0]!r} applies to --backend={chosen.backend.name}"
            return _no_deployment(chosen)
        except (LongctxError, LookupError) as problem:  # an error in a marker is reported elsewhere
            return str(problem)

    def _nothing(self, collected: Sequence[pytest.Item]) -> Iterator[str]:
        config = self.session.config
        chosen = [
            f"{flag} {text!r}" for flag, text in (("-m", config.option.markexpr), ("-k", config.option.keyword)) if text
        ]
        if not any(map(_is_ours, collected)):
            typed = join(masked(str(word), ()) for word in config.invocation_params.args)
            found = (
                f"{len(collected)} tests were collected here, but none is selected"
                if collected
                else "no test was collected here"
            )
            yield f"{found}; for the suites: pytest {SUITES} {typed}"
        elif chosen and not self.lines:
            yield f"none of the {len(collected)} collected tests has {' and '.join(chosen)}"
        elif not chosen:
            yield f"no finding applies to --backend={self.session.selection.backend.name} with these deployments"


def _strict(config: pytest.Config) -> bool:
    """
    Return whether pytest treats an unregistered marker as an error. Since pytest 9, an ini key decides, which the flag
    also sets.
    """
    for key in ("strict_markers", "strict"):
        try:
            found = config.getini(key)
        except ValueError:  # no such key in this version
            continue
        if found is not None:
            return bool(found)
    return bool(config.getoption("strict_markers", default=False))


def _unknown(name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name, known, n=1)
    return f"unknown marker {name}; {f'did you mean {near[0]}?' if near else 'pytest --markers lists them'}"


def _names(item: pytest.Item) -> str:
    return " ".join(chain(item.nodeid.split("::"), map(str, item.keywords)))


def _is_ours(item: pytest.Item) -> bool:
    return item.path.is_relative_to(paths.suites())


def _few(names: Iterable[str]) -> str:
    each = list(dict.fromkeys(names))
    more = f" and {len(each) - _SHOWN} more" if len(each) > _SHOWN else ""
    return ", ".join(each[:_SHOWN]) + more


def _no_deployment(chosen: Selection) -> str:
    """Return the reason why a test without a finding is deselected: no deployment of this run can be booted."""
    reasons: dict[str, list[str]] = {}
    for one in chosen.deployments:
        reasons.setdefault(chosen.not_bootable(one) or "", []).append(one.name)
    lines = "; ".join(f"{_few(names)}: {why}" for why, names in reasons.items())
    return (
        f"no deployment of --backend={chosen.backend.name} can be booted here ({lines}). "
        "Select a deployment for this machine with --longctx-deployment, or give the hardware of a remote server with "
        "--longctx-hardware"
    )


def _why_not(chosen: Selection, finding: Finding) -> str:
    """Return the reason why no test of this run judges a selected *finding*."""
    if finding.status == "withdrawn":
        return "is withdrawn"
    misfits = [case.misfit for case in (chosen.case(finding, one) for one in chosen.deployments)]
    if any(misfit is None or not misfit.elsewhere for misfit in misfits):
        return f"only the suites judge it: add {SUITES}"
    nearest = max((misfit for misfit in misfits if misfit), key=lambda misfit: misfit.depth, default=None)
    return f"does not apply to this run: {nearest.line if nearest else 'it has no deployment'}"
