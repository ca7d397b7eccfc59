"""What ``import pytest_longctx`` gives: every name, lazily, without pytest; and the page that shows it."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pytest_longctx as lc

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "pytest_longctx"
PAGE = (ROOT / "docs/how-to/use-it-from-python.md").read_text(encoding="utf-8")
SHOWN = re.findall(r"^```python\n(.*?)^```$\n\n(?:^```text\n(.*?)^```$)?", PAGE, re.MULTILINE | re.DOTALL)
PAIRS = [(code, text) for code, text in SHOWN if text]
WITHOUT_PYTEST = """
import sys
for name in ("pytest", "_pytest", "xdist", "pytest_timeout"):
    sys.modules[name] = None  # importing it raises
try:
    import pytest
except ImportError:
    pass
else:
    sys.exit("pytest can still be imported")
"""


def run_without_pytest(code: str) -> str:
    """What *code* prints in a new interpreter in which pytest cannot be imported, in the root of the checkout."""
    command = [sys.executable, "-c", WITHOUT_PYTEST + code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_name_resolves_without_pytest():
    code = """
import pytest_longctx as lc
print([name for name in lc.__all__ if getattr(lc, name, None) is None])
print(dir(lc) == lc.__all__)
from pytest_longctx import *
print(ask is lc.ask, load_findings is lc.load_findings)
"""
    assert run_without_pytest(code).splitlines() == ["[]", "True", "True True"]


def test_nothing_is_imported_before_it_is_used():
    code = """
import pytest_longctx
print(sorted(name for name in sys.modules if name.startswith("pytest_longctx.")))
print([name for name in ("httpx", "numpy", "pydantic") if name in sys.modules])
pytest_longctx.LongctxError
print(sorted(name for name in sys.modules if name.startswith("pytest_longctx.")))
"""
    first, heavy, then = run_without_pytest(code).splitlines()
    assert (first, heavy) == ("[]", "[]")
    assert then == "['pytest_longctx.errors', 'pytest_longctx.observation']"


def test_type_checkers_see_what_is_imported():
    """The block for type checkers, the table and ``__all__`` name the same things, from the same modules."""
    (block,) = (
        node
        for node in ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8")).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    typed = {
        each.asname or each.name: f"{node.module}:{each.name}"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for each in node.names
    }
    assert typed == lc._PLACES
    assert sorted([*typed, "__version__"]) == lc.__all__


def test_no_name_is_that_of_a_module():
    """Or it would depend on what was imported before, which of the two ``pytest_longctx.NAME`` is."""
    assert [name for name in lc.__all__ if (PACKAGE / name).exists() or (PACKAGE / f"{name}.py").exists()] == []


def test_the_top_of_the_package_is_small():
    """Names for authors of extensions are in the packages that they extend."""
    assert len(lc.__all__) <= 26, lc.__all__
    assert [name for name in ("Backend", "Recipe", "Launcher") if name in lc.__all__] == []


def test_a_name_that_is_not_there_is_missing():
    with pytest.raises(AttributeError, match="has no attribute 'diagnoze'"):
        lc.diagnoze  # type: ignore[attr-defined]  # noqa: B018 - a typing error, for a type checker too


def test_the_page_shows_five_things_and_what_they_print():
    (opening, nothing), *examples = SHOWN
    assert (opening.strip(), nothing) == ("import pytest_longctx as lc", "")
    assert len(examples) == len(PAIRS) == 5
    mark = "=== the next example ==="
    code = f"print({mark!r})\n".join([opening, *(code for code, _ in examples)])
    first, *printed = run_without_pytest(code).split(f"{mark}\n")
    assert first == ""
    assert printed == [text for _, text in examples]


def test_the_page_names_everything():
    cells = re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE)
    assert sorted(name for cell in cells for name in re.findall(r"`(\w+)`", cell)) == lc.__all__
