"""Every example in a docstring gives the result shown."""

import doctest
import importlib
from pathlib import Path

import pytest

import pytest_longctx

PACKAGE = Path(pytest_longctx.__file__).parent
SHOWN = [path for path in sorted(PACKAGE.rglob("*.py")) if ">>>" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", SHOWN, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_an_example_comes_out_as_it_stands_there(path):
    name = ".".join(("pytest_longctx", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
    failed, tried = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert tried
    assert not failed
