"""Shape of the package: number of names, sizes of packages, and existence of every module named in a string."""

import ast
import re
from collections import Counter
from importlib import import_module
from pathlib import Path

import pytest

import pytest_longctx

PACKAGE = Path(pytest_longctx.__file__).parent
METAPHORS = frozenset(
    (
        *("abandon", "annotating", "bedside", "between", "carrying", "contained", "growing", "held", "knock", "leash"),
        *("lookout", "pulse", "reaper", "reporting", "shelf", "spreading", "starts", "turns", "waking", "watching"),
    )
)
_DOTTED = re.compile(r"(pytest_longctx(?:\.\w+)+)(?::(\w+))?")


def modules() -> list[Path]:
    return [path for path in sorted(PACKAGE.rglob("*.py")) if "suites" not in path.relative_to(PACKAGE).parts]


def named_in_strings() -> list[tuple[str, str | None]]:
    """Return every string in the package that is a ``module`` or ``module:name``."""
    found = set()
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and (match := _DOTTED.fullmatch(node.value))
            ):
                found.add((match[1], match[2]))
    return sorted(found, key=str)


@pytest.mark.parametrize(("module", "name"), named_in_strings())
def test_what_is_imported_by_its_name_is_there(module, name):
    made = import_module(module)
    assert name is None or hasattr(made, name)


def test_there_are_names_to_resolve():
    assert ("pytest_longctx.backends.vllm", "Vllm") in named_in_strings()
    assert ("pytest_longctx.launchers.docker", "DockerLauncher") in named_in_strings()
    assert ("pytest_longctx.devices.nvidia", "Nvml") in named_in_strings()


def test_a_reader_sees_few_names_at_the_top():
    tops = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in modules()}
    assert len(tops) <= 26, sorted(tops)


def test_no_package_has_more_modules_than_a_reader_can_look_over():
    """A package inside a package counts for itself."""
    packages = Counter(
        str(path.parent.relative_to(PACKAGE))
        for path in modules()
        if path.parent != PACKAGE and path.name != "__init__.py"
    )
    assert {name: count for name, count in packages.items() if count > 17} == {}


def test_no_module_is_named_by_a_metaphor():
    assert [str(path.relative_to(PACKAGE)) for path in modules() if path.stem in METAPHORS] == []
