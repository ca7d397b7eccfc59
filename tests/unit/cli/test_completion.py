"""``longctx --print-completion``: what real shells complete with it."""

import shutil
import subprocess
import sys

import pytest

from pytest_longctx import cli
from pytest_longctx.cli import completion

pytest.importorskip("shtab")


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("completion") / "longctx.bash"
    path.write_text(completion.script(cli.commands(), "bash"), encoding="utf-8")
    return path


def typed(script, folder, *words):
    """What bash offers after TAB at the end of the last of *words*."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("needs bash")
    lines = (
        f'source "{script}"',
        'COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}',
        "entry=($(complete -p longctx)); for at in ${!entry[@]}; do [ ${entry[at]} = -F ] && call=${entry[at + 1]}; done",
        '$call longctx "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"',
        'printf "%s\\n" "${COMPREPLY[@]}"',
    )
    command = [bash, "--noprofile", "--norc", "-c", "\n".join(lines), "bash", "longctx", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.split()


def test_bash_completes_every_command(script, tmp_path):
    (subcommands,) = (each for each in cli.commands()._actions if each.dest == "command")
    assert set(subcommands.choices or ()) <= set(typed(script, tmp_path, ""))
    assert typed(script, tmp_path, "cert") == ["certify"]


def test_bash_completes_options_and_their_words(script, tmp_path):
    assert typed(script, tmp_path, "report", "--form") == ["--format"]
    assert typed(script, tmp_path, "report", "--format", "") == ["html", "llm-d", "aiperf", "guidellm"]
    assert typed(script, tmp_path, "init", "--backend", "minia") == ["miniature", "miniature-sglang"]
    assert typed(script, tmp_path, "nothing", "--form") == []


def test_bash_completes_files(script, tmp_path):
    (tmp_path / "results.jsonl").touch()
    assert typed(script, tmp_path, "report", "resu") == ["results.jsonl"]
    assert typed(script, tmp_path, "report", "--baseline", "resu") == ["results.jsonl"]


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_the_command_prints_the_script_and_nothing_else(capsys, shell):
    with pytest.raises(SystemExit) as exited:
        cli.main(["--print-completion", shell])
    assert exited.value.code == 0
    printed = capsys.readouterr()
    assert printed.out == completion.script(cli.commands(), shell)
    assert printed.err == ""


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_the_script_is_one_that_the_shell_can_read(shell, tmp_path):
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")
    (tmp_path / "script").write_text(completion.script(cli.commands(), shell), encoding="utf-8")
    subprocess.run([shell, "-n", str(tmp_path / "script")], check=True, timeout=60)


def test_without_the_library_one_message_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert cli.main(["--print-completion", "bash"]) == 2
    assert "pip install 'pytest-longctx[completion]'" in capsys.readouterr().err
