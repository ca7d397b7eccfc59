"""A run that resumes an aborted one: the same verdicts, without repeating the judged requests."""

import json
import os
import signal
import subprocess
import sys
import time

import junitparser
import pytest

from pytest_longctx import paths, read_results
from pytest_longctx.reports.results import NAME

SOME = ("--backend=miniature", "-m", "smoke or ten_k or boot or prefix_cache")
LONG = ("--backend=miniature", "-m", "smoke or ten_k or boot or limits")
"""The last of these take seconds, so that the run can be aborted before its end."""


def verdicts(results):
    """Return the verdicts of a file, independent of how it was produced."""
    return {(row["test"], row["finding"]): (row["verdict"], row["outcome"], row["why"]) for row in results.verdicts}


def cut(path, keep):
    """Reduce a results file to the state of a run killed after *keep* verdicts, with half a last line."""
    kept, count = [], 0
    for line in path.read_text().splitlines():
        count += json.loads(line)["kind"] == "verdict"
        if count > keep:
            kept.append(line[: len(line) // 2])
            break
        kept.append(line)
    path.write_text("\n".join(kept))


def command(*arguments):
    base = [
        sys.executable,
        "-m",
        "pytest",
        str(paths.suites()),
        "-c",
        os.devnull,
        "--rootdir=.",
        "-p",
        "no:cacheprovider",
    ]
    return [*base, *LONG, *arguments]


def test_a_run_that_was_killed_and_resumed_comes_to_the_same_verdicts(tmp_path):
    """With a real SIGKILL at any point after the third verdict."""
    env = {name: value for name, value in os.environ.items() if name != "CI"}
    files = {"cwd": tmp_path, "env": env, "stdout": subprocess.DEVNULL}
    path = tmp_path / "results" / NAME
    subprocess.run(command("--longctx-results=whole"), check=False, **files)
    whole = read_results(tmp_path / "whole" / NAME)
    with subprocess.Popen(command(), **files) as process:
        while not path.exists() or path.read_text().count('"kind": "verdict"') < 3:
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert '"kind": "footer"' not in path.read_text()
    message = subprocess.run(
        command("--longctx-resume=results"), check=False, **{**files, "stdout": subprocess.PIPE}
    ).stdout
    resumed = read_results(path)
    assert verdicts(resumed) == verdicts(whole)
    assert resumed.footer["verdicts"] == whole.footer["verdicts"]
    carried = [row for row in resumed.verdicts if row["carried"]]
    assert 2 <= len(carried) < len(whole.verdicts)
    assert f"{len(carried)} of {len(whole.verdicts)} carried over" in message.decode()


@pytest.fixture
def begun(run):
    """A run of a few findings aborted after its third verdict, and its options."""
    done = run(*SOME)
    path = done.folder / "results" / NAME
    whole = verdicts(done.results)
    cut(path, 3)
    return whole


@pytest.mark.parametrize("workers", [[], ["-n2"]], ids=["alone", "xdist"])
def test_what_was_judged_is_taken_over_whole(run, begun, workers):
    done = run(*SOME, "--longctx-resume=results", "--junitxml=report.xml", *workers)
    assert done.outcome.ret == 0
    assert verdicts(done.results) == begun
    carried = {row["test"] for row in done.results.verdicts if row["carried"]}
    assert len(carried) >= 2
    # The requests of the verdicts taken over are present too, once for each test.
    assert carried <= {row["test"] for row in done.results.requests} | {
        row["test"] for row in done.results.verdicts if "boot" in row["test"]
    }
    assert done.results.header["resumes"].startswith("results.2")
    cases = [case for suite in junitparser.JUnitXml.fromfile(str(done.folder / "report.xml")) for case in suite]
    found = {}
    for case in cases:
        pairs = {p.name: p.value for group in case.iterchildren(junitparser.Properties) for p in group}
        if since := next((value for name, value in pairs.items() if name.endswith(".carried")), None):
            found[case.name] = (case.is_skipped, since, pairs["longctx.server.deployment"])
    assert len(found) == len(carried)
    assert {skipped for skipped, _, _ in found.values()} == {True}
    assert f"{len(carried)} of {len(begun)} carried over" in done.text


def test_a_resumed_run_that_is_cut_off_too_can_be_resumed(run, begun):
    done = run(*SOME, "--longctx-resume=results")
    cut(done.folder / "results" / NAME, 1)  # it took over one verdict; its own verdicts are lost
    done = run(*SOME, "--longctx-resume=results/results.jsonl")
    assert verdicts(done.results) == begun
    assert sum(bool(row["carried"]) for row in done.results.verdicts) >= 2


FINDING = """
id = "TT-0001"
title = "{title}"
question = "served"
markers = ["smoke"]
status = "confirmed"
reviewed = 2026-01-02
[source]
document = "somewhere"
[scope]
backend = "miniature"
deployment = "faulty"
[ask]
prompt_tokens = 1000
"""


@pytest.fixture
def own(run, pytester, faulty):
    """A run of one finding of a project on its own deployment."""
    chosen = faulty("honest")
    (pytester.path / "data" / "findings").mkdir(parents=True)
    (pytester.path / "data" / "deployments").mkdir()
    kept = pytester.path / "data" / "deployments" / "faulty.toml"
    (pytester.path / "faulty.toml").rename(kept)
    assert chosen

    def start(*arguments, title="it is served", fault="honest"):
        path = pytester.path / "data" / "findings" / "TT-0001.toml"
        path.write_text(FINDING.format(title=title))
        kept.write_text(kept.read_text().replace('fault = "honest"', f'fault = "{fault}"'))
        return run(
            "--backend=miniature", "--longctx-data=data", "--longctx-deployment=faulty", "-k", "TT-0001", *arguments
        )

    return start


AGAIN = [
    ({"title": "it is served soon"}, (), "the finding has changed"),
    ({"fault": "forgets-cache"}, (), "the deployment has changed"),
    ({}, ("--longctx-hardware=2xH200",), "hardware: cpu, now 2xH200"),
    ({}, ("--longctx-seed=8",), "seed: 7, now 8"),
]


@pytest.mark.parametrize(("changes", "options", "why"), AGAIN, ids=[why for *_, why in AGAIN])
def test_under_other_conditions_it_is_judged_again(own, changes, options, why):
    own("--longctx-seed=7", "--longctx-hardware=cpu")
    done = own(
        "--longctx-resume=results",
        *(options or ("--longctx-seed=7",)),
        *(() if "hardware" in why else ("--longctx-hardware=cpu",)),
        **changes,
    )
    done.outcome.assert_outcomes(passed=1)
    (row,) = done.results.verdicts
    assert (row["carried"], row["again"]) == ("", why)
    assert f"judged again, {why}: TT-0001" in done.text


def test_a_resumed_run_has_the_seed_of_the_one_it_resumes(own):
    first = own()
    done = own("--longctx-resume=results")
    assert done.results.header["seed"] == first.results.header["seed"]
    done.outcome.assert_outcomes(skipped=1)


def test_another_baseline_or_client_judges_again(own):
    own("--longctx-seed=7")
    path = own("--longctx-seed=7").folder / "results" / NAME
    (path.parent.parent / "baseline.jsonl").write_text(path.read_text())
    done = own("--longctx-resume=results", "--longctx-baseline=baseline.jsonl", "--longctx-fail-on=ttft_s:900%")
    (row,) = done.results.verdicts
    assert row["again"].startswith("fail-on: none, now ttft_s:900%; baseline: none, now ")


def test_a_folder_with_nothing_in_it_is_begun(own):
    done = own("--longctx-resume=results")
    done.outcome.assert_outcomes(passed=1)
    assert "longctx: nothing to resume in" in done.text


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "file not found"),
        ("{}", "must be a results file"),
        ("", "must be a results file"),
        ("x", "results.jsonl: "),
    ],
)
def test_what_is_no_results_file_is_refused(own, pytester, text, complaint):
    if text is not None:
        (pytester.path / "results").mkdir()
        (pytester.path / "results" / NAME).write_text(text)
    done = own(f"--longctx-resume=results/{NAME}")
    assert done.outcome.ret == 4
    assert complaint in done.text
    assert "Traceback" not in done.text


KNOWN = """
from contextlib import contextmanager
from dataclasses import dataclass

from pytest_longctx.backends.miniature import Miniature
from pytest_longctx.launchers.process import ProcessLauncher

class Counted(ProcessLauncher):
    @contextmanager
    def up(self, launch):
        with open("boots", "a") as out:
            print(launch.deployment.name, file=out)
        with super().up(launch) as server:
            yield server

class Installed(Miniature):
    package = "mine"
    distributions = ("mine",)

def pytest_longctx_make_backend(name):
    return Installed() if name == "miniature" else None

def pytest_longctx_make_launcher(kind):
    return Counted() if kind == "counted" else None
"""


@pytest.fixture
def installed(pytester, monkeypatch):
    """Make the miniature an engine with an installed *version*, and return the options that use it and count its boots."""

    def make(version):
        site = pytester.mkdir("site")
        (site / "mine").mkdir()
        (site / "mine" / "__init__.py").touch()
        info = site / f"mine-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: mine\nVersion: {version}\n")
        monkeypatch.setenv("PYTHONPATH", f"{site}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        pytester.syspathinsert()
        pytester.makepyfile(of_project=KNOWN)
        return ("--longctx-launcher=counted", "-p", "of_project")

    return make


@pytest.mark.parametrize(("version", "boots"), [("0.0.0+miniature", 1), ("0.0.1", 2)], ids=["known", "other"])
def test_nothing_boots_where_the_version_is_known_without_it(own, pytester, installed, version, boots):
    """An installed version that differs from the server's version does not cause a new verdict before the server is queried."""
    chosen = installed(version)
    own(*chosen)
    done = own(*chosen, "--longctx-resume=results")
    done.outcome.assert_outcomes(skipped=1)
    assert len((pytester.path / "boots").read_text().splitlines()) == boots
    assert "judged again" not in done.text


@pytest.mark.parametrize("version", ["0.0.0+miniature", "0.0.1"], ids=["before its boot", "after its boot"])
def test_a_broken_finding_stays_a_failed_test(run, faulty, installed, version):
    late = ("--backend=miniature", faulty("late-first-token"), *installed(version), "-k", "MN-0001")
    first = run(*late)
    (failed,) = first.results.verdicts
    done = run(*late, "--longctx-resume=results", "--junitxml=report.xml")
    assert done.outcome.ret == 1
    assert verdicts(done.results) == verdicts(first.results)
    assert {"failed": 1}.items() <= done.outcome.parseoutcomes().items()
    assert "errors" not in done.outcome.parseoutcomes()
    assert f"{failed['finding']} broken: {failed['why']} (carried over from the run of " in done.text
    report = (done.folder / "report.xml").read_text()
    assert 'failures="1"' in report
    assert 'errors="0"' in report
