"""The command in a report that repeats one verdict: run in another folder, it selects the same test."""

import shlex
import subprocess
import sys

import pytest

from pytest_longctx.reports import causes, results

OWN = """
import pytest

@pytest.mark.finding("LC-0001")
def test_mine(finding, prompt, ask, judge):
    assert judge(ask(prompt(1000), 32))
"""


def repeated(line, folder):
    """Return the results of *line* run in *folder*."""
    program, *words = shlex.split(line)
    assert program == "pytest"
    command = [sys.executable, "-m", "pytest", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    return results.read(folder / "results" / "results.jsonl")


@pytest.mark.parametrize("what", [None, "test_mine.py"], ids=["the suites", "one's own"])
def test_a_verdict_is_repeated_from_any_folder(run, pytester, tmp_path_factory, faulty, what):
    pytester.makepyfile(test_mine=OWN)
    (pytester.path / "ours" / "findings").mkdir(parents=True)
    options = ("--backend=miniature", faulty("honest"), "--longctx-data=ours", "--longctx-allow-unjudged")
    first = run(*options, "-k", "LC-0001", what=what).results
    (row,) = first.verdicts
    line = causes.again(first.header, row)
    assert str(pytester.path / "faulty.toml") in line
    assert str(pytester.path / "ours") in line
    second = repeated(line, tmp_path_factory.mktemp("elsewhere"))
    (again,) = second.verdicts
    assert (again["finding"], again["server"]["seed"]) == (row["finding"], row["server"]["seed"])
    assert second.header["options"] == first.header["options"]


def test_what_the_ini_file_says_is_typed_in_the_command(run, pytester):
    pytester.makeini("[pytest]\nlongctx_backend = miniature\nlongctx_data = ours\nlongctx_strict = yes\n")
    (pytester.path / "ours" / "findings").mkdir(parents=True)
    header = run("-k", "LC-0001").results.header
    assert header["options"] == ["--backend=miniature", f"--longctx-data={pytester.path}/ours", "--longctx-strict"]
