"""The help of ``longctx``: printed without arguments, and with examples that can be typed."""

import argparse
import re
import shlex

import pytest

from pytest_longctx import cli


def parsers(parser=None, name=""):
    """Return every parser below *parser* by its typed name."""
    parser = parser or cli.commands()
    found: dict[str, argparse.ArgumentParser] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, one in action.choices.items():
                typed = f"{name} {word}".strip()
                found |= {typed: one, **parsers(one, typed)}
    return found


def examples(parser):
    """Return the examples at the end of a help, as typed words without the program."""
    head, _, rest = parser.format_help().partition("\nexamples:\n")
    assert head
    return [shlex.split(line)[1:] for line in rest.splitlines() if line.strip().startswith("longctx ")]


@pytest.mark.parametrize("command", parsers())
def test_every_help_ends_with_examples_of_its_own_command(command):
    found = examples(parsers()[command])
    assert found
    for words in found:
        assert words[: len(command.split())] == command.split()
        given = vars(cli.commands().parse_args(words))
        assert given["command"] == words[0]


def test_without_arguments_the_help_is_printed(capsys):
    assert cli.main([]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert set(re.findall(r"^    (\w+)", printed.out, re.MULTILINE)) == set(parsers())


def test_an_unknown_command_is_an_error_with_the_known_ones(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["diagnos", "x"])
    assert ended.value.code == 2
    assert "'diagnose'" in capsys.readouterr().err
