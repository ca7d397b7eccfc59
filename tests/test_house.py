"""Machine-checkable rules of the code structure."""

import ast
import inspect
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import pytest_longctx
from pytest_longctx import cli, registry
from pytest_longctx.deployments import deployment
from pytest_longctx.findings import ask, finding, markers
from pytest_longctx.launchers import lint
from pytest_longctx.measures import MEASURES
from pytest_longctx.miniatures.faults import FAULTS
from pytest_longctx.plugin import fixtures, hookspecs, options
from pytest_longctx.reports import pages
from tests import module_page

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "pytest_longctx").rglob("*.py"))
EXTENDED = {f"pytest_longctx.{name}" for name in ("backends.Backend", "backends.Recipe", "launchers.Launcher")}
"""The names for authors of extensions. They are on the page of the Python API, and not at the top of the package."""
REFERENCE = (ROOT / "docs/reference/plugin.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_and_functions_stay_readable(module):
    text = module.read_text(encoding="utf-8")
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, node.name
    assert not re.search(r"utils|common|helpers|misc|manager|mixin|handler|processor", module.stem)


def documented_fixtures():
    return [name for name, value in vars(fixtures).items() if type(value).__name__ == "FixtureFunctionDefinition"]


def hooks():
    return {
        f"{name}({', '.join(inspect.signature(value).parameters)})"
        for name, value in vars(hookspecs).items()
        if name.startswith("pytest_longctx_")
    }


@pytest.mark.parametrize(
    "name",
    [
        *(option.long for option in options.OPTIONS),
        *(f"`{name}`" for name in (*markers.LENGTHS, *markers.THEMES)),
        *(f"| `{name}` |" for name in documented_fixtures()),
        *(f"| `{hook}` |" for hook in sorted(hooks())),
        *(f"`{name}`" for name in registry.BACKENDS),
    ],
)
def test_the_reference_names_everything(name):
    assert name in REFERENCE


def test_there_are_fixtures_and_hooks_to_document():
    """The checks above must not pass because they find nothing."""
    assert {"server", "prompt", "ask", "judge", "boot", "deployment"} <= set(documented_fixtures())
    assert "pytest_longctx_make_backend(config, name)" in hooks()


def test_every_measure_is_defined_for_readers():
    page = (ROOT / "docs/reference/measures.md").read_text(encoding="utf-8")
    for name, measure in MEASURES.items():
        assert f"| `{name}` | {measure.unit} | {measure.meaning} |" in page


def test_every_question_and_miniature_is_explained():
    how_to = (ROOT / "docs/how-to/write-a-finding.md").read_text(encoding="utf-8")
    assert all(f"| `{question}` |" in how_to for question in ask.questions())
    page = (ROOT / "docs/explanation/miniatures.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([\w-]+)` \|", page, re.MULTILINE)) == set(FAULTS)


def test_the_architecture_page_names_every_package_and_no_missing_module():
    """Its table has every package, its prose every top-level module, and every module that it names exists."""
    page = (ROOT / "docs/explanation/house.md").read_text(encoding="utf-8")
    package = ROOT / "pytest_longctx"
    packages = {path.parent.name for path in package.glob("*/__init__.py")}
    table = page.partition("## Packages")[2].partition("\n\n| ")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == packages
    modules = {path.stem for path in package.glob("*.py")}
    assert {name for name in modules if f"`{name}`" not in page} == set()
    dotted = re.findall(rf"\b(?:{'|'.join(packages)})\.\w+", page)
    named = {name.replace(".", "/") for name in dotted} | set(re.findall(r"`(\w+/[\w/]+)(?:\.py)?/?`", page))
    assert len(named) >= 15
    exists = {name for name in named if (package / f"{name}.py").exists() or (package / name).is_dir()}
    assert named - exists == set()


def test_the_pages_of_findings_are_those_of_the_files():
    """After a change of a finding: ``longctx findings docs/findings``."""
    made = pages.pages(finding.load_all((ROOT / "suites" / "findings",)).values())
    for name, text in made.items():
        assert (ROOT / "docs/findings" / name).read_text(encoding="utf-8") == text, name


def test_the_page_of_signatures_is_that_of_the_catalogues():
    """After a change of a catalogue: ``longctx signatures docs/reference``."""
    assert (ROOT / "docs/reference/signatures.md").read_text(encoding="utf-8") == pages.signatures_page(
        cli.catalogues()
    )


def test_the_page_of_modules_is_that_of_their_docstrings():
    """After a module was added, moved or renamed: ``python -m tests.module_page``."""
    assert module_page.PAGE.read_text(encoding="utf-8") == module_page.page()
    assert not re.search(r"^\| `[\w.]+` \|\s*\|$", module_page.page(), re.MULTILINE)


def test_the_page_of_the_python_api_has_every_public_name():
    page = (ROOT / "docs/reference/python.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^::: ([\w.]+)$", page, re.MULTILINE))
    assert documented == {place.replace(":", ".") for place in pytest_longctx._PLACES.values()} | EXTENDED


def test_every_fragment_can_be_collected():
    for fragment in (ROOT / "docs/changelog").glob("*.md"):
        assert fragment.name == "README.md" or re.fullmatch(r"[\w-]+\.(added|changed|fixed)\.md", fragment.name)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_carries_the_suites_and_their_data(wheel):
    names = set(wheel.namelist())
    for path in (ROOT / "suites").rglob("*"):
        if path.suffix in (".py", ".toml"):
            assert f"pytest_longctx/suites/{path.relative_to(ROOT / 'suites')}" in names
    assert "pytest_longctx/backends/vllm/signatures.toml" in names
    assert "pytest_longctx/py.typed" in names
    assert "pytest_longctx/reports/html/report.html.j2" in names
    assert not any(name.startswith(("tests/", "suites/", "docs/")) for name in names)


def test_the_sdist_carries_all_that_a_wheel_is_built_from_and_no_more(tmp_path):
    command = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(path) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    tracked = {
        str(path.relative_to(ROOT)) for folder in ("pytest_longctx", "suites") for path in (ROOT / folder).rglob("*.*")
    }
    tracked = {name for name in tracked if "__pycache__" not in name}
    assert sorted(tracked - names) == []
    assert {
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "SECURITY.md",
        "pyproject.toml",
        "tox.ini",
        "tests/conftest.py",
    } <= names
    assert not any(name.endswith((".whl", ".pyc")) for name in names)


@pytest.fixture(params=["wheel", "checkout"])
def site(request, tmp_path):
    """Locations of the package: unpacked from a wheel, or in this checkout as in an editable install."""
    if request.param == "checkout":
        return ROOT
    request.getfixturevalue("wheel").extractall(tmp_path / "site")
    return tmp_path / "site"


def test_the_suites_run_from_anywhere(site, tmp_path):
    """Outside a clone: ``pytest --pyargs pytest_longctx.suites`` in an empty folder."""
    empty = tmp_path / "empty"
    empty.mkdir()
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--pyargs",
        "pytest_longctx.suites",
        "--backend=miniature",
        "-m",
        "smoke",
    ]
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True, check=False)
    assert "2 passed" in done.stdout
    where = [sys.executable, "-c", "import pytest_longctx; print(pytest_longctx.__file__)"]
    found = subprocess.run(where, cwd=empty, env=environment, capture_output=True, text=True, check=True).stdout
    assert found.strip() == str(site / "pytest_longctx" / "__init__.py")
    assert (empty / "results" / "results.jsonl").is_file()
    (log,) = (path.read_text(encoding="utf-8") for path in (empty / "results" / "boots").glob("miniature-*.log"))
    assert "KV cache size" in log


@pytest.mark.parametrize(
    ("typed", "folders"),
    [
        (["--backend=miniature"], {"suites"}),
        (["--longctx-hardware=cpu", "-k", "test_units or VC-0001 or LC-0001"], {"suites", "tests"}),
        (["--backend=miniature", "tests/unit/test_units.py"], {"tests"}),
    ],
    ids=["a backend", "no backend", "a backend and a path"],
)
def test_a_backend_alone_collects_the_suites_alone(typed, folders):
    """In a checkout, where ``pytest`` alone also runs the plugin's own tests."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *typed]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert {line.partition("/")[0] for line in done.stdout.splitlines() if "::" in line} == folders


def test_every_lint_and_every_key_of_a_launchers_table_is_in_the_reference():
    named = (*lint.names(), *deployment.Docker.model_fields, *deployment.Kubernetes.model_fields)
    assert [name for name in named if f"| `{name}` |" not in REFERENCE] == []
