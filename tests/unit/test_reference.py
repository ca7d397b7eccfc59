"""
The reference lists exactly the available options, commands, verdicts and TOML keys.

Markers, fixtures, hooks with their arguments, measures, questions and lints are checked by ``tests/test_house.py``.
"""

import json
import re
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest

from pytest_longctx import cli
from pytest_longctx.deployments import deployment
from pytest_longctx.diagnosis import signatures
from pytest_longctx.findings import ask, finding
from pytest_longctx.findings.verdicts import WORST_FIRST
from pytest_longctx.plugin import options
from pytest_longctx.toml import Table

DOCS = Path(__file__).parents[2] / "docs"
PLUGIN = (DOCS / "reference/plugin.md").read_text(encoding="utf-8")
CONSOLE = (DOCS / "reference/console.md").read_text(encoding="utf-8")
SIGNATURES = (DOCS / "reference/signatures.md").read_text(encoding="utf-8")
QUESTIONS = (DOCS / "how-to/write-a-finding.md").read_text(encoding="utf-8")
KEYS = (DOCS / "reference/keys.md").read_text(encoding="utf-8")
TABLES: dict[str, type[Table]] = {
    "## A finding": finding.Finding,
    "### `[source]`": finding.Source,
    "### `[scope]`": finding.Scope,
    "### `[ask]`": ask.Ask,
    "### `[claim]`": ask.Claim,
    "### `[expect]`": finding.Expect,
    "### `[bounds.MEASURE]`": finding.Bound,
    "### `[known]`": finding.Known,
    "## A deployment": deployment.Deployment,
    "### `[model]`": deployment.Model,
    "### `[timeouts]`": deployment.Timeouts,
    "## A catalogue": signatures.Catalogue,
    "### `[[fact]]`": signatures.Fact,
    "### `[[place]]`": signatures.Place,
    "### `[[signature]]`, `[[refusal]]`": signatures.Signature,
    "### `[rate]`": signatures.RateLine,
    "### `[canary]`": signatures.CanaryLine,
    "### `[[benign]]`": signatures.Benign,
}
ELSEWHERE: dict[str, type[Table]] = {
    "## The docker table": deployment.Docker,
    "## The kubernetes table": deployment.Kubernetes,
}


def section(page, heading):
    """Return the text below *heading*, up to the next heading."""
    _, found, rest = page.partition(f"\n{heading}\n")
    assert found, heading
    return re.split(r"\n##+ ", rest)[0]


def rows(text, columns):
    """Return the first *columns* cells of every table row in *text*."""
    return re.findall(r"^\|" + r" (.*?) ?\|" * columns, text, re.MULTILINE)


def literals(annotation):
    """Return every value that a Literal in *annotation* allows."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return tuple(word for part in get_args(annotation) for word in literals(part))


def default(field):
    """Return a default as written on the page; empty if there is none."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    message = isinstance(value, bool | int | float) or (value and isinstance(value, str | tuple))
    return f"`{json.dumps(value)}`" if message else ""


@pytest.mark.parametrize("heading", TABLES)
def test_the_keys_of_a_table_are_those_of_its_model_with_their_defaults(heading):
    shown = dict(rows(section(KEYS, heading), 2)[2:])
    keys = {
        name: field for name, field in TABLES[heading].model_fields.items() if not field.exclude
    }  # excluded fields hold measured values
    assert shown == {f"`{field.alias or name}`": default(field) for name, field in keys.items()}


@pytest.mark.parametrize("heading", TABLES)
def test_every_word_that_a_key_may_have_is_said(heading):
    """In the key's table, or where its row refers to."""
    links = {
        "question": QUESTIONS,
        "outcome": section(KEYS, "## Outcomes"),
        "phase": section(KEYS, "## Phases"),
        "kind": SIGNATURES,
        "of": SIGNATURES,
    }
    for name, field in TABLES[heading].model_fields.items():
        words = [word for word in literals(field.annotation) if isinstance(word, str)]
        text = links.get(name, section(KEYS, heading)) if words else ""
        assert [word for word in words if f"`{word}`" not in text] == [], name


@pytest.mark.parametrize("heading", ELSEWHERE)
def test_the_keys_of_a_launchers_table_are_those_of_its_model(heading):
    named = set(re.findall(r"^\| `(\w+)` \|", section(PLUGIN, heading), re.MULTILINE))
    message = section(PLUGIN, heading).partition("| key")[0]
    assert named <= set(ELSEWHERE[heading].model_fields)
    assert {name for name in ELSEWHERE[heading].model_fields if f"`{name}`" not in message} == named


def test_every_model_of_a_toml_file_has_its_table():
    """A table added to a module must be added to the page."""
    modules = (ask, signatures, deployment, finding)
    found = {one for module in modules for one in vars(module).values() if isinstance(one, type)}
    models = {one for one in found if issubclass(one, Table) and one is not Table}
    assert models == {*TABLES.values(), *ELSEWHERE.values()}


def test_the_options_are_those_of_the_page_and_each_has_the_ini_key_that_the_page_promises():
    shown = re.findall(r"^\| `(--[\w-]+)", section(PLUGIN, "## Options"), re.MULTILINE)
    assert shown == [option.long for option in options.OPTIONS]
    for option in options.OPTIONS:
        assert option.key == f"longctx_{option.long.removeprefix('--longctx-').removeprefix('--').replace('-', '_')}"


def test_every_command_of_the_console_is_in_the_reference():
    (subcommands,) = (action for action in cli.commands()._actions if action.dest == "command")
    assert isinstance(subcommands.choices, dict)
    assert [name for name in subcommands.choices if f"`longctx {name} " not in CONSOLE] == []
    rows = dict(re.findall(r"^\| `(\w+)` \| [^|]+ \| *(\w*) *\|", section(CONSOLE, "## Commands"), re.MULTILINE))
    printed = {
        name: "yes" if action.nargs == 0 else "file"
        for name, parser in dict[str, Any](subcommands.choices).items()
        for action in parser._actions
        if "--json" in action.option_strings
    }
    assert rows == {name: printed.get(name, "") for name in subcommands.choices}


def test_the_verdicts_of_the_readme_are_those_there_are():
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\| `([a-z ]+)` \|", section(readme, "## The five verdicts"), re.MULTILINE)
    assert sorted(shown) == sorted(WORST_FIRST)
