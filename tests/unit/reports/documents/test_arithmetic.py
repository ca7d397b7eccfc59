"""The arithmetic behind the claims' table: each figure is that of its calculation, which `tests/data/arithmetic.toml` has."""

import math
import re
import tomllib
from pathlib import Path

import pytest

from pytest_longctx import paths, plan
from pytest_longctx.deployments.deployment import load_all
from pytest_longctx.deployments.shape import known
from pytest_longctx.findings import ttft_law
from pytest_longctx.findings.claims import largest_value
from pytest_longctx.findings.finding import load_all as load_findings
from pytest_longctx.reports.documents import claims
from pytest_longctx.units import GiB, Mi

SUITES = paths.suites()
DOCUMENTS = {each.file: each for each in claims.load(SUITES / "claims.toml")}
DEPLOYMENTS = load_all((SUITES / "deployments",))
TABLE = tomllib.loads((Path(__file__).parents[3] / "data/arithmetic.toml").read_text(encoding="utf-8"))
ROWS = [(file, row) for file, table in TABLE.items() for row in table["rows"]]
WORDS = {"nine": "9", "eight": "8", "two": "2"}
SUFFIXES = {"K": 1e3, "M": 1e6}


def predicted(name, hardware=None):
    made = plan.predict_deployment(DEPLOYMENTS[name], hardware)
    assert made is not None, name
    return made


LAW = ttft_law.fit([(1_620_345, 118.0), (2_845_646, 334.91), (4_908_091, 957.07)])
"""The cold runs of the document of 8 x H200, in tokens and seconds, as SC-0080 has them."""
NAMES = {
    "__builtins__": {},
    "GiB": GiB,
    "MiB": Mi,
    "KiB": 1024,
    "ceil": math.ceil,
    "floor": math.floor,
    "kv": lambda shape, tokens, value_bytes=2: known()[shape].kv_bytes_per_token(value_bytes) * tokens,
    "params": lambda shape: known()[shape].parameters,
    "requests": lambda name, hardware=None: predicted(name, hardware).concurrency,
    "longest": lambda name, hardware=None: predicted(name, hardware).longest_tokens,
    "largest": largest_value,
    "law": LAW.seconds,
}


def value_of(figure):
    """The value of a printed figure, and half of its last digit."""
    plain = WORDS.get(figure, figure)
    found = re.search(r"(\d[\d,]*)(\.\d+)?([KM](?![iBa-z]))?", plain)
    assert found is not None, figure
    unit = SUFFIXES.get(found[3] or "", 1)
    half = 0.5 * 10.0 ** -(len(found[2]) - 1 if found[2] else 0) * unit
    return float(found[1].replace(",", "") + (found[2] or "")) * unit, half


@pytest.mark.parametrize(("file", "row"), ROWS, ids=[f"{file}-{row['at']}-{row['figure']}" for file, row in ROWS])
def test_a_figure_is_that_of_its_calculation(file, row):
    printed = [
        claim
        for claim in DOCUMENTS[file].claim
        if claim.at == row["at"] and row["figure"] in f"{claim.says}; {claim.true}"
    ]
    assert printed, "no row of that line has the figure"
    value, half = value_of(row["figure"])
    spare = row.get("within", 0) * value or half * 1.0001
    assert eval(row["is"], NAMES) == pytest.approx(value, abs=spare)


BY_PLAN = [
    (name, one.bounds["concurrency"].reference, deployment)
    for name, one in load_findings((SUITES / "findings",)).items()
    if "concurrency" in one.bounds and (one.bounds["concurrency"].because or "").startswith("arithmetic")
    for deployment in one.scope.deployment
]


@pytest.mark.parametrize(("name", "reference", "deployment"), BY_PLAN)
def test_a_finding_by_arithmetic_has_the_figure_of_the_plan(name, reference, deployment):
    assert predicted(deployment).concurrency == pytest.approx(reference, rel=0.02)


def test_the_law_of_the_finding_is_that_of_its_runs():
    bounds = load_findings((SUITES / "findings",))["SC-0080"].bounds
    assert LAW.linear_s * 1e6 == pytest.approx(bounds["law_linear_s"].reference, rel=0.001)
    assert LAW.quadratic_s * 1e12 == pytest.approx(bounds["law_quadratic_s"].reference, rel=0.001)
