"""The labelled logs are whole: each head is complete, and the line that proves its cause stands in the log."""

from pathlib import Path

import pytest

CORPUS = Path(__file__).parents[2] / "data" / "diagnosis"
LOGS = sorted(CORPUS.glob("*/*.log"))
KEYS = {"source", "engine", "ended", "class", "phase", "because", "sizes", "do", "resolution"}


def head_and_body(log: Path) -> tuple[dict[str, str], list[str]]:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    first = next(number for number, line in enumerate(lines) if not line.startswith("# "))
    pairs = (line.removeprefix("# ").partition(": ") for line in lines[:first])
    return {key: value for key, _, value in pairs}, lines[first:]


@pytest.mark.parametrize("log", LOGS, ids=lambda log: f"{log.parent.name}-{log.stem}")
def test_a_log_has_its_answer(log):
    head, body = head_and_body(log)
    assert head.keys() >= KEYS
    assert head["because"] == "none" or any(head["because"].strip() in line for line in body)


def test_all_sets_are_there():
    sets = {
        name: [head_and_body(log)[0]["class"] for log in LOGS if log.parent.name == name]
        for name in (
            "developed",
            "held_out",
            "third",
            "fourth",
            "fifth",
            "sixth",
            "seventh",
            "eighth",
            "ninth",
            "tenth",
            "eleventh",
            "twelfth",
            "thirteenth",
            "fourteenth",
            "fifteenth",
        )
    }
    counts = {name: (len(classes), classes.count("healthy")) for name, classes in sets.items()}
    assert counts == {
        "developed": (207, 50),
        "held_out": (123, 24),
        "third": (138, 25),
        "fourth": (70, 15),
        "fifth": (119, 23),
        "sixth": (82, 19),
        "seventh": (94, 19),
        "eighth": (36, 9),
        "ninth": (82, 18),
        "tenth": (65, 15),
        "eleventh": (64, 15),
        "twelfth": (72, 16),
        "thirteenth": (77, 16),
        "fourteenth": (94, 18),
        "fifteenth": (85, 18),
    }
