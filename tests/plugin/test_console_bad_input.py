"""Invalid input to the console command: one line with the error and exit code 2, never a traceback or a silent success."""

import pytest

from pytest_longctx import cli

WRONG = {
    "check": (["check", "--data", "nope"], "--data: folder not found: nope"),
    "plan": (["plan", "--hardware=8xH200", "--data", "nope"], "--data: folder not found: nope"),
    "findings": (["findings", "pages", "--data", "nope"], "--data: folder not found: nope"),
    "render": (["render", "scout-vllm-2m", "--data", "nope"], "--data: folder not found: nope"),
    "a folder without data": (
        ["check", "--data", "empty"],
        "--data: empty has none of findings/, deployments/, tasks/",
    ),
    "pages into a file": (["findings", "file"], "file: File exists"),
    "signatures into a file": (["signatures", "file"], "file: File exists"),
    "commands into a file": (["commands", "file"], "file: File exists"),
    "a report into nowhere": (["report", "nope"], "nope: No such file or directory"),
    "a history without a store": (["history", "show", "nope"], "nope: this folder contains no run; add one"),
    "a history of nothing": (["history", "add", "nope"], "history add: give at least one results file"),
}


@pytest.mark.parametrize(("typed", "message"), WRONG.values(), ids=WRONG)
def test_a_console_command_says_what_is_wrong(tmp_path, monkeypatch, capsys, typed, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    assert cli.main(typed) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"longctx: {message}")
    assert printed.err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file"]
