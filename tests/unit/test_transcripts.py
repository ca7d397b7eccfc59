"""A tutorial page that shows a recorded session shows the commands that were typed, in order, and output that they printed."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGES = {"tutorial/regressions.md": "results/vllm-0.32.0-cpu/record/session.txt"}
"""Each page with the session that it shows."""
BLOCK = re.compile(r"^```(bash|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LEFT_OUT = "[...]"


def session(path):
    """The commands of a recorded session, each with the lines that it printed."""
    made: list[tuple[str, list[str]]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("$ "):
            made.append((line[2:], []))
        elif made:
            made[-1][1].append(line)
    return made


def shown(page):
    """The commands of a page, each with the lines of the output block after it; None without one."""
    made = []
    for language, text in BLOCK.findall(page):
        if language == "bash":
            made += [[command, None] for command in text.replace("\\\n", " ").splitlines()]
        else:
            assert made, "an output before the first command"
            made[-1][1] = text.splitlines()
    return made


def missing(wanted, printed):
    """The first line of *wanted* that *printed* does not have after those before it; None if it has them all, in order."""
    rest = iter(printed)
    for line in wanted:
        if line.strip() == LEFT_OUT:
            continue
        head = line.partition(LEFT_OUT)[0]
        if not any(each == line or (head != line and each.startswith(head)) for each in rest):
            return line
    return None


@pytest.mark.parametrize("name", PAGES)
def test_the_commands_of_the_page_are_those_of_the_session(name):
    page, ran = (DOCS / name).read_text(encoding="utf-8"), session(DOCS / PAGES[name])
    assert [" ".join(command.split()) for command, _ in shown(page)] == [command for command, _ in ran]


@pytest.mark.parametrize("name", PAGES)
def test_the_outputs_of_the_page_are_those_of_the_session(name):
    page, ran = (DOCS / name).read_text(encoding="utf-8"), session(DOCS / PAGES[name])
    outputs = [(lines, printed) for (_, lines), (_, printed) in zip(shown(page), ran, strict=True) if lines is not None]
    assert outputs
    assert [missing(lines, printed) for lines, printed in outputs] == [None] * len(outputs)


def test_a_line_that_was_not_printed_or_not_in_this_order_is_found():
    assert missing(["a", LEFT_OUT, "c"], ["a", "b", "c"]) is None
    assert missing(["a", "long [...]"], ["a", "long line"]) is None
    assert missing(["c", "a"], ["a", "b", "c"]) == "a"
    assert missing(["d"], ["a", "b", "c"]) == "d"
