"""Resume an earlier run: keep its verdicts that were reached under equal conditions, and skip their tests."""

from collections.abc import Generator, Mapping
from typing import Any

import pytest

from pytest_longctx import __version__, toml
from pytest_longctx.deployments import models
from pytest_longctx.deployments.deployment import Deployment
from pytest_longctx.errors import LongctxError
from pytest_longctx.findings.finding import Finding
from pytest_longctx.launchers import boot as launchers_boot
from pytest_longctx.plugin.options import Options
from pytest_longctx.plugin.selection import pair_of
from pytest_longctx.plugin.session import Session
from pytest_longctx.redaction import masked
from pytest_longctx.reports import properties, resume
from pytest_longctx.reports.resume import Earlier, Now

_FAILED = pytest.StashKey[bool]()


def conditions(options: Options) -> dict[str, str]:
    """Return the conditions of every verdict of this run, with which a resumed run compares its own."""
    return resume.conditions(
        longctx=__version__,
        launcher=masked(options.launcher, ()),
        load=options.load or "",
        fail_on=options.fail_on,
        baseline=options.baseline,
    )


class Resuming:
    """
    Plugin that checks each test before its set-up, and again with the running server if only the server reports the
    conditions.
    """

    def __init__(self, session: Session, earlier: Earlier) -> None:
        self.session = session
        self.earlier = earlier
        self.conditions = conditions(session.options)
        self._known: dict[str, dict[str, str]] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Look up the earlier verdict before a server boots for the test, and carry it over if the conditions are equal."""
        finding, deployment = pair_of(item)
        if finding is not None and not finding.on_paper and not self.session.problems:
            self._look(item, finding, self._facts(deployment))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> None:
        """Look up the earlier verdict again with the running server, whose engine and model are now known."""
        finding, deployment = pair_of(item)
        boot = self.session.last_boot
        if finding is not None and boot is not None and boot.conditions.deployment == deployment:
            self._look(item, finding, boot.facts)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Report a broken finding of the earlier run as a failed test; pytest would report an error of the set-up."""
        report = yield
        if report.failed and item.stash.get(_FAILED, False):
            report.when = "call"
        return report

    def _look(self, item: pytest.Item, finding: Finding, facts: Mapping[str, str]) -> None:
        now = Now(toml.digest(finding), facts, self.conditions, self.session.options.seed)
        found = self.earlier.standing(item.nodeid, finding.id, now)
        if found is None:
            return
        if found.changes:
            pair = properties.again_pair(finding.id, "; ".join(found.changes))
            if pair not in item.user_properties:
                item.user_properties.append(pair)
        elif now.settled:
            item.user_properties.extend(properties.carried_pairs(found.row, found.since))
            self._say(item, found.row, found.row.get("carried") or found.since)

    @staticmethod
    def _say(item: pytest.Item, row: Mapping[str, Any], since: str) -> None:
        why = f": {row['why']}" if row["why"] else ""
        said = f"{row['finding']} {row['verdict']}{why} (carried over from the run of {since})"
        if row["verdict"] == "holds":
            pytest.skip(said)
        if row["verdict"] == "known":
            pytest.xfail(said)
        item.stash[_FAILED] = True
        pytest.fail(said, pytrace=False)

    def _facts(self, one: Deployment) -> dict[str, str]:
        """
        Return the facts of a server of *one* that are known before its boot, to compare with the earlier run, in the
        form of `Boot.facts`.
        """
        if one.name not in self._known:
            self._known[one.name] = self._asked(one)
        return self._known[one.name]

    def _asked(self, one: Deployment) -> dict[str, str]:
        chosen = self.session.selection
        known = {
            "deployment": one.name,
            "configuration": toml.digest(one),
            "hardware": str(chosen.machine.hardware or "unknown"),
            "launcher": chosen.launcher.name,
        }
        if chosen.version is not None:
            known["engine"] = launchers_boot.engine_called(one, chosen.version)
        try:
            if one.model.name != "unknown":
                known["model"] = models.fingerprint(one.model, models.locate(one.model))
        except LongctxError:
            pass  # the boot will report the fault
        return known
