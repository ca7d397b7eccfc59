"""The blind answers to the sets from the fifth on: the published figures are theirs, and what was right then stays right."""

import csv
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_longctx.diagnosis.diagnose import assess
from tests.unit.diagnosis.corpus import FOLDER, ROOT, Labelled, labelled, score

SETS = (
    *("fifth", "sixth", "seventh", "eighth", "ninth", "tenth"),
    *("eleventh", "twelfth", "thirteenth", "fourteenth", "fifteenth"),
)

PAGE = (ROOT / "docs" / "results" / "diagnosis" / "blind-scores.md").read_text(encoding="utf-8")


def folder_of(name: str) -> Path:
    return FOLDER.parent / name


def answers_of(name: str) -> dict[str, dict[str, str]]:
    with (folder_of(name) / "answers.tsv").open(encoding="utf-8", newline="") as file:
        return {row["log"]: row for row in csv.DictReader(file, delimiter="\t")}


LOGS = {name: {each.name: each for each in labelled(folder_of(name))} for name in SETS}
ANSWERS = {name: answers_of(name) for name in SETS}


def pairs() -> Iterator[tuple[str, Labelled, dict[str, str]]]:
    for name in SETS:
        for log in LOGS[name].values():
            yield name, log, ANSWERS[name][log.name]


def those(wanted):
    return [
        pytest.param(log, answer, id=f"{name}-{log.name.removesuffix('.log')}")
        for name, log, answer in pairs()
        if wanted(log, answer)
    ]


@pytest.mark.parametrize("name", SETS)
def test_every_log_has_its_answer(name):
    assert ANSWERS[name].keys() == LOGS[name].keys()


@pytest.mark.parametrize("name", SETS)
def test_the_published_figures_are_those_of_the_answers(name):
    logs, answers = LOGS[name], ANSWERS[name]
    claims = [row for row in answers.values() if row["found"] != "-"]
    right = sum(row["judged"] == "right" for row in claims)
    healthy = [log.name for log in logs.values() if log.healthy]
    causes = sum(log.label not in ("healthy", "unknown") for log in logs.values())
    failed = sum(answers[log]["state"] in ("failed", "impaired") for log in healthy)
    published = re.search(rf"^\| `{name}` \| (.*) \|$", PAGE, re.MULTILINE)
    assert published is not None
    assert [int(cell) for cell in published[1].split(" | ")] == [
        causes,
        right,
        len(claims),
        right,
        len(healthy),
        failed,
    ]


@pytest.mark.parametrize(("log", "answer"), those(lambda _, answer: answer["judged"] == "right"))
def test_what_was_answered_rightly_stays_so(log, answer):
    found = assess(log.read(), log.ended)[1]
    assert found is not None
    assert log.right(found) or found.kind == answer["found"]


@pytest.mark.parametrize(("log", "answer"), those(lambda log, _: log.healthy))
def test_no_healthy_server_is_called_failed(log, answer):
    reading = log.read()
    state, found = assess(reading, log.ended)
    assert (state in ("healthy", "stopped", "unfinished"), found) == (True, None)
    assert not reading.fatal  # and no wait would have ended for it


@pytest.mark.parametrize(("log", "answer"), those(lambda log, answer: log.now == "unknown" and answer["found"] == "-"))
def test_what_was_not_recognised_rightly_stays_so(log, answer):
    found = assess(log.read(), log.ended)[1]
    assert found is None or found.kind == "unknown"


@pytest.mark.parametrize("name", SETS)
def test_the_published_score_after_mending_is_todays(name):
    counts = score(folder_of(name))[0]
    published = re.search(
        rf"^- The set `{name}`, .*?: (\d+) of (\d+) failures have a right answer, (\d+) of (\d+) claims are right",
        PAGE,
        re.MULTILINE,
    )
    assert published is not None
    right, claims = counts["right"], counts["claims"]
    assert [int(cell) for cell in published.groups()] == [right, counts["failures with a cause"], right, claims]
