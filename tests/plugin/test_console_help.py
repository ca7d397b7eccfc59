"""Help texts: those of pytest with the plugin loaded, and those of every console command."""

import argparse
import subprocess
import sys
from typing import Any

import pytest

from pytest_longctx import cli
from pytest_longctx.plugin import options


def subcommands():
    """Return every console command by name."""
    (choice,) = (action for action in cli.commands()._actions if isinstance(action, argparse._SubParsersAction))
    return choice.choices


@pytest.mark.parametrize(
    ("flag", "named"),
    [
        ("--help", [option.long for option in options.OPTIONS]),
        ("--markers", ["@pytest.mark.ten_million", "@pytest.mark.finding(*ids)", "@pytest.mark.judges(question)"]),
        ("--fixtures", ["longctx_session", "reset_cache", "logged_rate"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_pytest_explains_itself_with_the_plugin_loaded(tmp_path, flag, named):
    command = [sys.executable, "-m", "pytest", flag]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert [name for name in named if name not in done.stdout] == []


@pytest.mark.parametrize("command", ["", *subcommands()])
def test_every_console_command_explains_itself(capsys, command):
    with pytest.raises(SystemExit) as ended:
        cli.main([*filter(None, [command]), "-h"])
    printed = capsys.readouterr()
    assert (ended.value.code, printed.err) == (0, "")
    assert printed.out.startswith(f"usage: longctx {command}".rstrip())


def test_the_console_command_explains_itself_as_a_module(tmp_path):
    typed = [sys.executable, "-m", "pytest_longctx.cli", "-h"]
    done = subprocess.run(typed, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: longctx")


def formatted(action):
    """Return the help that argparse prints for *action*."""
    formatter = argparse.HelpFormatter("longctx", width=1000)
    formatter.add_argument(action)
    return formatter.format_help()


class Declared:
    """Receives the plugin's option declarations and passes them to argparse, as pytest does."""

    def __init__(self):
        self.parser = argparse.ArgumentParser()
        self.addoption = self.parser.add_argument

    def getgroup(self, name, description):
        return self

    def addini(self, *names, **attrs): ...


@pytest.mark.parametrize("option", options.OPTIONS, ids=lambda option: option.name)
def test_the_help_of_each_option_is_shown_as_it_stands_in_the_table(option):
    """A single % in a help text is a formatting error in argparse; a doubled one is shown once."""
    declared: Any = Declared()
    options.add(declared)
    (action,) = (action for action in declared.parser._actions if option.long in action.option_strings)
    assert "".join(formatted(action).split()) == f"{option.long}{option.metavar or ''}{option.help}".replace(" ", "")


@pytest.mark.parametrize("command", subcommands())
def test_the_help_of_each_console_option_can_be_formatted(command):
    parser = subcommands()[command]
    for action in parser._actions:
        assert formatted(action)
        assert "%" not in str(action.help).replace("%(default)s", "").replace("%%", "")
