"""The blind answers to the fifth set: the published figures are theirs, and what was right then stays right."""

import csv
import re

import pytest

from pytest_longctx.diagnosis.diagnose import assess
from tests.unit.diagnosis.corpus import FOLDER, ROOT, labelled, score

FIFTH = FOLDER.parent / "fifth"
PAGE = ROOT / "docs" / "results" / "diagnosis" / "blind-scores.md"
LOGS = {each.name: each for each in labelled(FIFTH)}
with (FIFTH / "answers.tsv").open(encoding="utf-8", newline="") as _file:
    ANSWERS = {row["log"]: row for row in csv.DictReader(_file, delimiter="\t")}
CLAIMS = {name: row for name, row in ANSWERS.items() if row["found"] != "-"}


def test_every_log_has_its_answer():
    assert ANSWERS.keys() == LOGS.keys()


def test_the_published_figures_are_those_of_the_answers():
    right = sum(row["judged"] == "right" for row in CLAIMS.values())
    healthy = [name for name, log in LOGS.items() if log.healthy]
    causes = sum(log.label not in ("healthy", "unknown") for log in LOGS.values())
    failed = sum(ANSWERS[name]["state"] in ("failed", "impaired") for name in healthy)
    published = re.search(r"^\| `fifth` \| (.*) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert published is not None
    assert [int(cell) for cell in published[1].split(" | ")] == [
        causes,
        right,
        len(CLAIMS),
        right,
        len(healthy),
        failed,
    ]


@pytest.mark.parametrize("name", [name for name, row in CLAIMS.items() if row["judged"] == "right"])
def test_what_was_answered_rightly_stays_so(name):
    found = assess(LOGS[name].read(), LOGS[name].ended)[1]
    assert found is not None
    assert LOGS[name].right(found) or found.kind == CLAIMS[name]["found"]


@pytest.mark.parametrize("name", [name for name, log in LOGS.items() if log.healthy])
def test_no_healthy_server_of_it_is_called_failed(name):
    reading = LOGS[name].read()
    state, found = assess(reading, LOGS[name].ended)
    assert (state in ("healthy", "stopped", "unfinished"), found) == (True, None)
    assert not reading.fatal  # and no wait would have ended for it


@pytest.mark.parametrize(
    "name", [name for name, log in LOGS.items() if log.label == "unknown" and ANSWERS[name]["found"] == "-"]
)
def test_what_was_not_recognised_rightly_stays_so(name):
    found = assess(LOGS[name].read(), LOGS[name].ended)[1]
    assert found is None or found.kind == "unknown"


def test_the_published_score_after_mending_is_todays():
    counts = score(FIFTH)[0]
    published = re.search(
        r"(\d+) of (\d+) failures have a right answer, (\d+) of (\d+) claims are right",
        PAGE.read_text(encoding="utf-8"),
    )
    assert published is not None
    right, claims = counts["right"], counts["claims"]
    assert [int(cell) for cell in published.groups()] == [right, counts["failures with a cause"], right, claims]
