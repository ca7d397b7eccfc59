"""Every command that reads or writes a path, with everything that such a path can be instead: one message, exit code 2, no wait."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_longctx import cli

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "docs/results/vllm-0.25.1-1xh200/results.jsonl"

INPUTS = {
    "missing": lambda path: None,
    "a folder": lambda path: path.mkdir(),
    "below a file": lambda path: None,
    "a link to itself": lambda path: path.symlink_to(path),  # unreadable for root as well
    "empty": lambda path: path.touch(),
    "a pipe": os.mkfifo,
    "endless zeros": lambda path: path.symlink_to("/dev/zero"),
    "cut JSON": lambda path: path.write_text('{"kind": "header", '),
    "a JSON number": lambda path: path.write_text("7"),
    "a JSON list": lambda path: path.write_text("[[1], {}]"),
    "bytes": lambda path: path.write_bytes(bytes(range(256))),
    "cut gzip": lambda path: path.write_bytes(b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03abc"),
}
"""What the path of an input can be, by name; each makes it."""

OUTPUTS = {
    "a folder": lambda path: path.mkdir(),
    "below a file": lambda path: None,
    "a pipe": os.mkfifo,
}
"""What the path of an output file can be."""

FOLDERS = {
    "a file": lambda path: path.touch(),
    "below a file": lambda path: None,
    "a pipe": os.mkfifo,
}
"""What the path of an output folder can be."""

READS = {
    "plan a file": ["plan", "--hardware=1xH100", "BAD.yaml"],
    "plan a deployment": ["plan", "BAD.toml"],
    "plan a model": ["plan", "--hardware=1xH100", "--model=BAD.json", "--", "vllm", "serve", "someone/unknown"],
    "plan data": ["plan", "--hardware=cpu", "--data=BAD"],
    "plan a finding": ["plan", "--hardware=cpu", "--data=DATA"],
    "findings data": ["findings", "pages", "--data=BAD"],
    "findings a finding": ["findings", "pages", "--data=DATA"],
    "check data": ["check", "--data=BAD"],
    "check a finding": ["check", "--data=DATA"],
    "report": ["report", "BAD.jsonl"],
    "report a baseline": ["report", "GOOD", "--baseline=BAD.jsonl"],
    "merge": ["merge", "GOOD", "BAD.jsonl", "-o", "whole.jsonl"],
    "compare": ["compare", "GOOD", "BAD.jsonl"],
    "compare a baseline": ["compare", "BAD.jsonl", "GOOD"],
    "history add": ["history", "add", "store", "BAD.jsonl"],
    "history show": ["history", "show", "BAD"],
    "history a run": ["history", "show", "STORE"],
    "history baseline": ["history", "baseline", "BAD", "run"],
    "render": ["render", "BAD.toml"],
    "render data": ["render", "miniature", "--data=BAD"],
    "diagnose": ["diagnose", "BAD.log"],
    "diagnose a good log": ["diagnose", "LOG", "--good=BAD.log"],
    "record": ["record", "BAD.jsonl"],
    "record data": ["record", "GOOD", "--data=BAD"],
    "list data": ["list", "findings", "--data=BAD"],
    "show a finding": ["show", "LC-0010", "--data=DATA"],
    "doctor data": ["doctor", "--data=BAD"],
    "init beside settings": ["init", "PROJECT", "--backend=miniature"],
    "certify a tokenizer": ["certify", "http://127.0.0.1:9/v1", "--yes", "--tokenizer=BAD"],
}
"""Commands that read BAD; a name of `NESTED` is a folder that has it."""

NESTED = {"DATA": "findings/XY-0001.toml", "STORE": "run.jsonl", "PROJECT": "pyproject.toml"}
"""Where BAD is in a folder that is given."""

WRITES = {
    "report": ["report", "GOOD", "-o", "BAD"],
    "merge": ["merge", "GOOD", "-o", "BAD"],
}
WRITES_INTO = {
    "findings": ["findings", "BAD"],
    "signatures": ["signatures", "BAD"],
    "commands": ["commands", "BAD"],
    "report plots": ["report", "GOOD", "-o", "run.html", "--plots=BAD"],
    "history": ["history", "add", "BAD", "GOOD"],
    "init": ["init", "BAD", "--backend=miniature"],
}

CASES = [
    (command, kind)
    for command, words in READS.items()
    for kind in INPUTS
    # What is missing in a folder is not looked for.
    if kind not in ("missing", "below a file") or not NESTED.keys() & {word.rpartition("=")[2] for word in words}
]
"""Each command with each kind of input that it looks for."""

CONTENT = {"empty", "cut JSON", "a JSON number", "a JSON list", "bytes", "cut gzip"}
TEXT = {"cut JSON", "a JSON number", "a JSON list"}
ANSWERED = {"diagnose": TEXT, "diagnose a good log": TEXT, "plan a model": CONTENT, "init beside settings": {"empty"}}
"""What is no error: any text may be a log, and a plan answers that it does not understand a config.json."""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty working folder with a good results file and a good log."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(RESULTS, tmp_path / "good.jsonl")
    (tmp_path / "good.log").write_text("INFO: Application startup complete.\n", encoding="utf-8")
    (tmp_path / "file").touch()
    return tmp_path


def typed(words, place, make, kind):
    """Return *words* with their place holders filled, and make what is bad."""
    filled = []
    for word in words:
        option, equals, value = word.rpartition("=")
        bad = place / ("file" if kind == "below a file" else "bad")
        if value.startswith("BAD"):
            bad = (bad / "inside" if kind == "below a file" else bad).with_suffix(value.removeprefix("BAD"))
            value = str(bad)
        elif value in NESTED:
            folder = place / value
            bad = folder / NESTED[value]
            bad.parent.mkdir(parents=True)
            value = str(folder)
        else:
            filled.append(word.replace("GOOD", "good.jsonl").replace("LOG", "good.log"))
            continue
        make(bad)
        filled.append(f"{option}{equals}{value}")
    return filled


def refused(words, capsys):
    """Run ``longctx``; assert that it ends with one message and exit code 2."""
    assert cli.main(words) == 2
    printed = capsys.readouterr()
    first, *rest = [line for line in printed.err.splitlines() if not line.startswith("[transformers]")]
    assert first.startswith("longctx: ")
    # Only what to try, and other wrong keys of the same file, have lines of their own.
    file = first.removeprefix("longctx: ").partition(": ")[0]
    assert all(line.startswith(("  ", f"{file}: ")) for line in rest)
    assert "Please report this bug" not in printed.err
    assert "Traceback" not in printed.err + printed.out
    assert len(first) < 600


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("command", "kind"), CASES)
def test_an_input_that_cannot_be_read_is_one_message(place, capsys, command, kind):
    words = READS[command]
    if kind in ANSWERED.get(command, ()):
        assert cli.main(typed(words, place, INPUTS[kind], kind)) in (0, 1)
        assert "Traceback" not in capsys.readouterr().err
        return None
    if command in FOLDER_IS_WANTED and kind == "a folder":
        (place / "bad").mkdir()
        words = [word.replace("BAD", "bad") for word in words]
        return refused(words, capsys)
    return refused(typed(words, place, INPUTS[kind], kind), capsys)


FOLDER_IS_WANTED = {each for each, words in READS.items() if any(word.endswith(("BAD", "=BAD")) for word in words)}
"""An empty folder is refused by these for what it lacks."""


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", OUTPUTS)
@pytest.mark.parametrize("command", WRITES)
def test_an_output_that_cannot_be_written_is_one_message(place, capsys, command, kind):
    refused(typed(WRITES[command], place, OUTPUTS[kind], kind), capsys)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", FOLDERS)
@pytest.mark.parametrize("command", WRITES_INTO)
def test_a_folder_that_cannot_be_made_is_one_message(place, capsys, command, kind):
    refused(typed(WRITES_INTO[command], place, FOLDERS[kind], kind), capsys)


PRINTS = {
    "help": [],
    "plan": ["plan", "--hardware=cpu", "--backend=miniature"],
    "check": ["check"],
    "findings": ["findings", "pages"],
    "report": ["report", "GOOD"],
    "merge": ["merge", "GOOD", "-o", "whole.jsonl"],
    "compare": ["compare", "GOOD", "GOOD"],
    "history": ["history", "add", "store", "GOOD"],
    "render": ["render", "miniature", "--launcher=process"],
    "diagnose": ["diagnose", "LOG"],
}
"""Commands that print something on standard output."""


def unwritable(name):
    """Return a text stream that cannot take what is written to it."""
    if name == "a closed pipe":
        reading, writing = os.pipe()
        os.close(reading)
        return os.fdopen(writing, "w")
    return open("/dev/full", "w")  # noqa: PTH123 - the caller closes it


@pytest.mark.parametrize("output", ["a closed pipe", "a full disk"])
@pytest.mark.parametrize("command", PRINTS)
def test_an_output_that_is_closed_or_full_is_one_message(place, capsys, monkeypatch, command, output):
    words = typed(PRINTS[command], place, lambda path: None, "")
    with unwritable(output) as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert cli.main(words) == 2
        monkeypatch.undo()
    err = capsys.readouterr().err
    assert err.startswith("longctx: ")
    assert err.count("\n") == 1


def test_the_interpreter_adds_nothing_to_the_message_about_a_closed_pipe(place):
    """What remains in the buffer of a closed pipe is written again at the end of the interpreter, unless it is dropped."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "pytest_longctx.cli", "compare", "good.jsonl", "good.jsonl"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (2, "longctx: the reader of the output closed the pipe before the end\n")


def test_a_log_from_a_pipe_is_read(place, capsys):
    """As a shell passes it in ``longctx diagnose <(kubectl logs ...)``."""
    reading, writing = os.pipe()
    os.write(writing, b"torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 4.00 GiB.\n")
    os.close(writing)
    assert cli.main(["diagnose", f"/dev/fd/{reading}"]) == 1
    os.close(reading)
    assert "out of memory" in capsys.readouterr().out


def test_ctrl_c_is_exit_code_130_without_a_traceback(place, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("pytest_longctx.cli.results_files.read_results", interrupted)
    assert cli.main(["report", "good.jsonl"]) == 130
    assert capsys.readouterr() == ("", "")
