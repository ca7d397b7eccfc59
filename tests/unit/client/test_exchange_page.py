"""The page about `Exchange` names all that a test may use of it, and nothing else; its refusal was seen."""

import inspect
import re
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest

from pytest_longctx.client.exchange import ENDING_OUTCOMES, Ending, Exchange, Ledger, Refusal, Usage
from pytest_longctx.observation import Observation
from pytest_longctx.reports.explanation import Setting, exchange_text
from tests.unit import factories

PAGE = (Path(__file__).parents[3] / "docs/reference/exchange.md").read_text(encoding="utf-8")
ASKING = PAGE.index("## A request that is not served")
SECTIONS = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
OF_EXCHANGE = ("What was sent, and when", "The result", "Derived values")


def public(kind):
    """Fields, properties and methods without an underscore."""
    methods = [name for name, value in vars(kind).items() if inspect.isfunction(value) or isinstance(value, property)]
    return {name for name in (*(each.name for each in fields(kind)), *methods) if not name.startswith("_")}


def rows(*titles):
    """By the name in its first cell, the cells of each row."""
    cells = [
        line.strip("| ").split(" | ") for title in titles for line in SECTIONS[title].splitlines() if "| `" in line
    ]
    return {cell[0].strip("`").removesuffix("()"): cell[1:] for cell in cells}


@pytest.mark.parametrize(
    ("kind", "titles"),
    [(Exchange, OF_EXCHANGE), (Usage, ("Usage",)), (Ledger, ("Ledger",)), (Refusal, ("Refusal",))],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_every_field_and_property_has_its_row(kind, titles):
    assert rows(*titles).keys() == public(kind)
    assert len(rows(*titles)) >= 3


@pytest.mark.parametrize("name", sorted(public(Exchange) | public(Ledger)))
def test_a_name_with_a_unit_has_that_unit(name):
    unit = next((unit for end, unit in (("_s", "s"), ("_tokens", "tokens")) if name.endswith(end)), None)
    for title in (*OF_EXCHANGE, "Usage", "Ledger"):
        cells = rows(title).get(name)
        if cells is not None and unit is not None and name != "first_tokens":
            assert cells[0].strip() == unit


def test_every_ending_has_its_row_and_outcome():
    told = {ending: cells[-1] for ending, cells in rows("Endings").items()}
    assert told == {ending: outcome or "none" for ending, outcome in ENDING_OUTCOMES.items()}
    assert set(told) == set(get_args(Ending))


def test_the_refusal_that_is_shown_is_what_is_printed():
    """But for how long it took, and what the run was called."""
    (shown,) = re.findall(r"```text\n(.*?)```", PAGE[ASKING:], re.DOTALL)
    said = "This model's maximum context length is 8192 tokens. However, your prompt contains 10000 input tokens and 32 output tokens were requested."
    exchange = factories.exchange(
        sent_tokens=10_000,
        asked_tokens=32,
        ending="refused",
        arrivals_s=(),
        ended_s=50.01,
        usage=Usage(),
        refusal=Refusal(400, said),
    )
    (again,) = re.findall(r"again    (.*)", shown)
    seen = Observation("refuses", phase="request", signature="prompt-too-long", kind="over-length", said=said)
    printed = exchange_text(exchange, seen, Setting("served", again=again), limit=8192)
    assert [line for line in shown.splitlines() if not line.startswith("  at ")] == printed.splitlines()
