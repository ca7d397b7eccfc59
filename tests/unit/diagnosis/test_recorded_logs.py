"""Every log in docs/results gets the diagnosis that was recorded with it."""

import json
from pathlib import Path

import pytest

from pytest_longctx.diagnosis.diagnose import Evidence, diagnose
from pytest_longctx.diagnosis.log_file import read_file
from pytest_longctx.registry import BACKENDS, load

RESULTS = Path(__file__).parents[3] / "docs" / "results"


def boots():
    """Return each log and the recorded row of its boot."""
    for path in sorted(RESULTS.rglob("results*.jsonl")):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for row in rows:
            if row["kind"] != "boot" or not row["log"]:
                continue
            kept = [path.parent / "boots" / name for name in (Path(row["log"]).name, f"{row['deployment']}.log")]
            log = next((each for each in kept if each.exists()), None)
            if log is not None:
                yield pytest.param(log, row, id=f"{path.parent.name}-{log.stem}")


BOOTS = list(boots())


def reading(log, row):
    return read_file(log, load(BACKENDS[row["engine"].split()[0]])().catalogue)


def test_there_are_logs_of_both_ends():
    outcomes = [param.values[1]["outcome"] for param in BOOTS]
    assert outcomes.count("serves") > 20
    assert set(outcomes) == {"serves", "dies", "refuses", "asserts", "runs out of memory"}


@pytest.mark.parametrize(("log", "row"), [one for one in BOOTS if one.values[1]["outcome"] == "serves"])
def test_a_server_that_served_has_not_failed(log, row):
    found = reading(log, row)
    assert (found.failure, found.errors.text) == (None, None)
    assert found.phase in ("serve", "stop")  # one log ends early because its machine was withdrawn


@pytest.mark.parametrize(("log", "row"), [one for one in BOOTS if one.values[1]["outcome"] != "serves"])
def test_a_boot_that_failed_is_named_with_its_cause(log, row):
    found = diagnose(reading(log, row), Evidence())
    assert (found.confidence, found.kind != "unknown") == ("certain", True)
    if row["signature"] == "engine-failed":  # this signature was added after the log was recorded
        assert found.signature == "fp8-query-assertion"
    elif row["signature"] == "attention-backend-unavailable":  # so is the one that tells why none is
        assert (found.outcome, found.signature) == (row["outcome"], "kv-dtype-unsupported")
    else:
        assert (found.outcome, found.signature) == (row["outcome"], row["signature"])
        assert {name: found.sizes[name] for name in found.sizes.keys() & row["figures"]}.items() <= row[
            "figures"
        ].items()
