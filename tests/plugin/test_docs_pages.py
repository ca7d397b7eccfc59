"""
Every code block of the tutorial, the how-to pages and the README, checked against the implementation.

Checked: a TOML block is a finding, a deployment or tables of one, as loaded by the package; a Python block is a file of
docs/examples, loaded by ``tests/unit/deployments/test_deployment_examples.py``, an example that ``tests/unit/test_public_names.py`` runs, or a test that passes on the miniature; a
``pytest`` line can be planned, so its options, markers, deployments and findings exist; a ``longctx`` line can be parsed; an
installed extra exists.

Not checked: that a command does what the page states, or that its output is up to date; that other programs accept the commands;
the meaning of YAML, which ``tests/external/kubernetes`` checks with an API server.
"""

import re
import shlex
import shutil
import sys
import tomllib
from itertools import dropwhile
from pathlib import Path

import pytest

from pytest_longctx import cli, paths, toml
from pytest_longctx.deployments import deployment
from pytest_longctx.findings import finding
from pytest_longctx.findings.ask import Ask
from pytest_longctx.measures import MEASURES

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/tutorial/*.md")), *sorted(ROOT.glob("docs/how-to/*.md"))]
NOTEBOOK = ROOT / "docs/how-to/use-it-from-python.md"
RUN = ROOT / "docs/results/vllm-0.25.1-1xh200/results.jsonl"
OTHERS = (
    ".",
    ".ci",
    "apt-get",
    "cd",
    "docker",
    "engine",
    "export",
    "git",
    "kubectl",
    "lmcache",
    "pip",
    "python",
    "python3",
    "sglang",
)
PARTS: dict[str, type[toml.Table]] = {"ask": Ask, "kubernetes": deployment.Kubernetes}


def blocks(page, language):
    """Return the blocks of *page* in *language*."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def everywhere(language):
    """Return the blocks of every page as parameters."""
    return [
        pytest.param(page, block, id=f"{page.stem}-{number}")
        for page in PAGES
        for number, block in enumerate(blocks(page, language))
    ]


def commands(block):
    """Return each command of a block as arguments, without leading variables and trailing redirections."""
    for line in block.replace("\\\n", " ").splitlines():
        for words in " ".join(shlex.quote(word) for word in shlex.split(line, comments=True)).split(" '&&' "):
            command = list(dropwhile(re.compile(r"[A-Z_]+=").match, shlex.split(words.partition(" '>' ")[0])))
            if command:
                yield [command[0].removeprefix(".venv/bin/"), *command[1:]]


def typed(program):
    """Return every command of a page that begins with *program*, as parameters."""
    return [
        pytest.param(page, words, id=f"{page.stem}: {' '.join(words)[:60]}")
        for page in PAGES
        for block in blocks(page, "bash")
        for words in commands(block)
        if words[0] == program and "tests" not in words  # the project's own tests need no plan
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_says_what_it_is_and_runs_nothing_unknown(page):
    opened = re.findall(r"^```(\w*)$", page.read_text(encoding="utf-8"), re.MULTILINE)[::2]
    assert set(opened) <= {"bash", "python", "text", "toml", "yaml"}
    programs = {words[0].partition("/")[0] or "." for block in blocks(page, "bash") for words in commands(block)}
    assert programs <= {"pytest", "longctx", *OTHERS}


@pytest.mark.parametrize(("page", "block"), everywhere("toml"))
def test_a_table_is_one_that_would_be_loaded(page, block):
    content = tomllib.loads(block)
    if "id" in content or "name" in content:
        kind: type[toml.Table] = finding.Finding if "id" in content else deployment.Deployment
        toml.check(content, kind, page.name)
        return
    for name, bound in content.pop("bounds", {}).items():
        assert name in MEASURES
        toml.check(bound, finding.Bound, page.name)
    for name, table in content.items():
        toml.check(table, PARTS[name], page.name)


@pytest.mark.parametrize(("page", "block"), everywhere("python"))
def test_a_piece_of_python_runs(pytester, page, block):
    if page == NOTEBOOK:  # tests/unit/test_public_names.py runs its examples, in order and without pytest
        return
    if block in [path.read_text(encoding="utf-8") for path in (ROOT / "docs/examples").glob("*.py")]:
        return
    pytester.makepyfile(block)
    done = pytester.runpytest("--backend=miniature", "--longctx-allow-unjudged")
    done.assert_outcomes(passed=block.count("def test_"))


@pytest.mark.parametrize(("page", "words"), typed("longctx"))
def test_a_command_of_the_console_can_be_typed(page, words):
    assert cli.commands().parse_args(words[1:]).command == words[1]


@pytest.mark.parametrize(("page", "words"), typed("pip"))
def test_an_extra_that_is_installed_is_ours(page, words):
    known = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for extras in re.findall(r"(?:pytest-longctx|^\.)\[([\w,]+)\]", " ".join(words)):
        assert set(extras.split(",")) <= set(known)


def prepared(pytester, monkeypatch, page):
    """Make the project of a page that types ``longctx init``, with a recorded finding; return the options to use its settings."""
    inits = [words for block in blocks(page, "bash") for words in commands(block) if words[:2] == ["longctx", "init"]]
    if not inits:
        return []
    monkeypatch.chdir(pytester.path)
    assert cli.main([word for word in inits[0][1:] if word.startswith("--") or word == "init"]) == 0
    (first,) = (pytester.path / "findings").glob("FIRST-*.toml")
    (pytester.path / "findings" / "REC-0001.toml").write_text(first.read_text().replace("FIRST-0001", "REC-0001"))
    return ["-c", str(pytester.path / "pytest.ini"), "-o", f"longctx_data={pytester.path}"]


@pytest.mark.parametrize(("page", "words"), typed("pytest"))
def test_a_run_can_be_planned(pytester, monkeypatch, page, words):
    """In a folder with everything the page refers to: findings, deployments, an earlier run, an interpreter."""
    monkeypatch.syspath_prepend(str(ROOT / "docs/examples"))
    # pytest warns of a plugin that this process has imported before.
    for module in (ROOT / "docs/examples").glob("*.py"):
        monkeypatch.delitem(sys.modules, module.stem, raising=False)
    shutil.copytree(ROOT / "docs/examples", pytester.path / "docs/examples")
    for block in blocks(page, "toml"):
        content = tomllib.loads(block)
        for folder, key in (("findings", "id"), ("deployments", "name")):
            for data in (pytester.path, pytester.path / "ours") if key in content else ():
                (data / folder).mkdir(parents=True, exist_ok=True)
                (data / folder / f"{content[key]}.toml").write_text(block, encoding="utf-8")
    (pytester.path / "results").mkdir()
    for name in ("baseline.jsonl", "results/results.jsonl"):
        shutil.copy(RUN, pytester.path / name)
    for python in ("PATH", "engine/bin/python", "sglang/bin/python"):
        (pytester.path / python).parent.mkdir(parents=True, exist_ok=True)
        (pytester.path / python).symlink_to(sys.executable)
    own = prepared(pytester, monkeypatch, page)
    options = [word for word in words[1:] if word not in ("--pyargs", "pytest_longctx.suites", "suites")]
    done = pytester.runpytest(str(paths.suites()), f"--rootdir={pytester.path}", *own, *options, "--longctx-plan")
    assert done.ret == 0
    done.stdout.fnmatch_lines(["*nothing was booted"])
