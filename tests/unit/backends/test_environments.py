"""Packages that every interpreter has replace the engines, so that nothing is installed."""

import importlib.metadata
import sys
from pathlib import Path

import pytest

from pytest_longctx.backends import Backend, environments
from pytest_longctx.errors import LaunchError, UsageError

HERE = Path(sys.executable)


class AnyPython(Backend):
    name = "any"


class Pydantic(Backend):
    name = "pydantic"
    package = "pydantic"
    distributions: tuple[str, ...] = ("no-such-distribution", "pydantic")


class Unpacked(Pydantic):
    distributions = ("no-such-distribution",)


class Missing(Backend):
    name = "missing"
    package = "no_such_engine"
    install: tuple[str, ...] = ("no-such-engine",)


class ByHand(Missing):
    name = "by-hand"
    install = ()


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("LONGCTX_HOME", str(tmp_path / "kept"))


def python(path: Path) -> Path:
    """Give this interpreter another name, as in a separate environment."""
    path.parent.mkdir(parents=True)
    path.write_text(f'#!/bin/sh\nexec "{HERE}" "$@"\n', encoding="utf-8")
    path.chmod(0o755)
    return path


def test_each_backend_has_an_environment_of_its_own(tmp_path):
    assert environments.own_python(Pydantic()) == tmp_path / "kept" / "engines" / "pydantic" / "bin" / "python"
    assert environments.own_python(Pydantic()) != environments.own_python(Missing())


@pytest.mark.parametrize(
    ("backend", "version"),
    [
        (Pydantic(), importlib.metadata.version("pydantic")),
        (Unpacked(), "unknown"),
        (Missing(), None),
        (AnyPython(), None),
    ],
)
def test_the_version_is_what_the_interpreter_has_under_any_of_its_names(backend, version):
    assert environments.installed_version(backend, HERE) == version


@pytest.mark.parametrize("file", ["missing", "not-a-program", "fails"])
def test_an_interpreter_that_cannot_be_asked_has_no_engine(tmp_path, file):
    (tmp_path / "not-a-program").write_text("words", encoding="utf-8")
    (tmp_path / "fails").write_text("#!/bin/sh\necho 1.0\nexit 1\n", encoding="utf-8")
    (tmp_path / "fails").chmod(0o755)
    assert environments.installed_version(Pydantic(), tmp_path / file) is None


def test_a_backend_that_needs_no_engine_takes_any_interpreter(tmp_path):
    assert environments.interpreter(AnyPython()) == HERE
    assert environments.interpreter(AnyPython(), tmp_path / "any") == tmp_path / "any"


def test_the_interpreter_is_the_one_wanted_else_the_backends_own_else_this_one(tmp_path):
    assert environments.interpreter(Pydantic()) == HERE
    own = python(environments.own_python(Pydantic()))
    assert environments.interpreter(Pydantic()) == own
    wanted = python(tmp_path / "wanted" / "python")
    assert environments.interpreter(Pydantic(), wanted) == wanted


def test_an_interpreter_that_was_wanted_is_not_replaced_by_another(tmp_path):
    wanted = tmp_path / "python"
    with pytest.raises(LaunchError) as caught:
        environments.interpreter(Pydantic(), wanted)
    assert f"checked  {wanted} (not there)" in str(caught.value)
    assert str(HERE) not in str(caught.value)


@pytest.mark.parametrize(
    ("backend", "remedy"),
    [(Missing(), "longctx engine missing"), (ByHand(), "install the engine in a separate environment")],
)
def test_an_engine_that_is_nowhere_says_where_it_was_looked_for_and_what_to_do(backend, remedy):
    with pytest.raises(LaunchError) as caught:
        environments.interpreter(backend)
    message = str(caught.value)
    assert f"the engine of backend {backend.name!r} is not installed" in message
    assert f"checked  {environments.own_python(backend)} (not there), {HERE} (no no_such_engine in it)" in message
    assert f"try      {remedy}, or name an interpreter that has it with --longctx-python" in message


def test_an_engine_without_requirements_cannot_be_installed():
    with pytest.raises(UsageError, match="cannot install the engine of backend 'by-hand'"):
        environments.install(ByHand(), print)


def test_an_engine_that_is_there_is_not_installed_again():
    class Installable(Pydantic):
        install = ("no-such-requirement",)

    message: list[str] = []
    own = python(environments.own_python(Installable()))
    assert environments.install(Installable(), message.append) == own
    assert message == [f"pydantic: {importlib.metadata.version('pydantic')} is already in {own.parent.parent}"]
