"""The workflows in docs/ci: every command exists in this package. Their schemas: ``tests/external/readers``."""

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from pytest_longctx import cli, paths

FOLDER = Path(__file__).parents[2] / "docs" / "ci"
FILES = ("Jenkinsfile", "buildkite.yml", "github-actions.yml", "gitlab-ci.yml")
COMMAND = re.compile(r"(?:^|[\s'])(?:\.venv/bin/)?((?:pytest --pyargs|longctx [a-z]+ ?)[^\n]*(?:\n\s+--[^\n]*)*)")


def commands(name):
    """Return every call of pytest and longctx in a file as arguments, with the matrix filled in."""
    text = (FOLDER / name).read_text(encoding="utf-8").replace("\\\n", "\n")
    for found in COMMAND.findall(text):
        line = re.sub(r"\$?\$?\{\{[^}]*\}\}", "1", found.replace("$$PART", "part"))
        line = re.sub(r"\$(\w+)", lambda name: "1" if name[1] in ("SHARD", "ENGINE", "BUILD_NUMBER") else name[0], line)
        yield shlex.split(line.strip().rstrip("'").partition(" >> ")[0])


CALLS = [(name, words) for name in FILES for words in commands(name)]


def test_there_is_nothing_else_in_the_folder():
    assert sorted(path.name for path in FOLDER.iterdir()) == sorted((*FILES, "README.md"))


@pytest.mark.parametrize("name", FILES)
def test_each_file_tests_a_pull_request_and_a_night_and_gates(name):
    lines = [" ".join(words) for words in commands(name)]
    assert sum(line.startswith("pytest") for line in lines) == 2
    assert any("--backend=vllm-cpu -m smoke" in line for line in lines)
    assert any("--longctx-shard=1/2" in line and "--longctx-resume=" in line for line in lines)
    assert any(line.startswith("longctx merge ") for line in lines)
    text = (FOLDER / name).read_text(encoding="utf-8")
    assert "0.25.1" in text
    assert "0.32.0" in text


@pytest.mark.parametrize(
    ("name", "words"), [call for call in CALLS if call[1][0] == "longctx"], ids=lambda part: str(part)[:40]
)
def test_a_command_of_the_console_can_be_typed(name, words):
    assert cli.commands().parse_args(words[1:]).command == words[1]


@pytest.mark.parametrize(
    ("name", "words"), [call for call in CALLS if call[1][0] == "pytest"], ids=lambda part: str(part)[:40]
)
def test_a_run_of_pytest_can_be_planned(pytester, name, words):
    """With the given options and ``--longctx-plan``, everything is read and checked without a boot."""
    (pytester.path / "engine" / "bin").mkdir(parents=True)
    (pytester.path / "engine" / "bin" / "python").symlink_to(sys.executable)
    (pytester.path / "baselines").mkdir()
    run = FOLDER.parent / "results" / "vllm-0.25.1-1xh200" / "results.jsonl"
    shutil.copy(run, pytester.path / "baselines" / "vllm.jsonl")
    options = [word for word in words[1:] if word not in ("--pyargs", "pytest_longctx.suites")]
    done = pytester.runpytest(str(paths.suites()), f"--rootdir={pytester.path}", *options, "--longctx-plan")
    assert done.ret == 0
    done.stdout.fnmatch_lines(["*nothing was booted"])
