"""Terminal output: on a real terminal, in a pipe, quiet and verbose."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from pytest_longctx import paths
from tests.conftest import FAULTY

ESCAPE = re.compile(rb"\x1b\[[0-9;]*[A-Za-z]")


@pytest.fixture
def late(tmp_path):
    """Return the command of a run whose server delays a prompt of 10,000 tokens by four seconds."""
    text = FAULTY.format(fault="late-first-token", boot_s=30, answer_s=30, stall_s=30).replace(
        "[flags]", "[flags]\nlate-s = 4"
    )
    (tmp_path / "faulty.toml").write_text(text)
    base = [
        sys.executable,
        "-m",
        "pytest",
        str(paths.suites()),
        "-c",
        os.devnull,
        "--rootdir=.",
        "-p",
        "no:cacheprovider",
    ]
    return [*base, "--backend=miniature", "--longctx-deployment=faulty.toml", "-k", "LC-0041 or LC-0001 or MN-0001"]


def on_terminal(command, folder, columns=80, **env):
    """Return everything that *command* writes to a pseudo terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    base = {
        name: value
        for name, value in os.environ.items()
        if name not in ("CI", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "PY_COLORS")
    }
    with subprocess.Popen(
        command, cwd=folder, env={**base, "TERM": "xterm", **env}, stdin=theirs, stdout=theirs, stderr=theirs
    ):
        os.close(theirs)
        written = b""
        try:
            while some := os.read(ours, 65536):
                written += some
        except OSError:  # Linux reports the closed other end with this error
            pass
        os.close(ours)
    return written


def test_a_long_wait_is_told_on_one_line_that_is_written_over(late, tmp_path):
    written = on_terminal(late, tmp_path)
    reported = re.findall(rb"\r(10,000 tokens to faulty: [^\r\n]*)", written)
    assert reported
    plain = ESCAPE.sub(b"", reported[-1]).decode().rstrip()
    assert re.fullmatch(r"10,000 tokens to faulty: prefill, 1 running, KV 50.0%, \d\.\d\d s of at most [\d.]+ s", plain)
    assert b"\x1b[31m" in written  # the broken finding is red
    rows = [ESCAPE.sub(b"", line).decode().rstrip("\r") for line in written.split(b"\n")]
    first = next(i for i, row in enumerate(rows) if " findings " in row)
    table = rows[first : next(i for i, row in enumerate(rows) if row.startswith("results: "))]
    assert max(map(len, table)) <= 80
    assert [row.split()[1] for row in table if row[:2] in ("LC", "MN")] == ["broken", "holds", "holds"]


@pytest.mark.parametrize(
    ("more", "env"), [((), {"NO_COLOR": "1"}), (("--color=no",), {})], ids=["NO_COLOR", "--color=no"]
)
def test_colour_is_only_where_it_is_wanted(late, tmp_path, more, env):
    written = on_terminal([*late, "-k", "MN-0001", *more], tmp_path, **env)
    assert b"MN-0001 broken" in written
    assert not re.search(rb"\x1b\[[0-9;]*m", written)


def test_a_narrow_terminal_is_not_filled_with_the_remains_of_a_wait(late, tmp_path):
    written = on_terminal([*late, "-k", "MN-0001"], tmp_path, columns=40)
    reported = [ESCAPE.sub(b"", line).rstrip() for line in re.findall(rb"\r([^\r\n]*: prefill, 1[^\r\n]*)", written)]
    assert reported
    assert all(len(line) < 40 for line in reported)
    assert b"\r" + b" " * 30 in written  # and the progress line is erased


def test_a_pipe_gets_no_line_that_is_written_over(late, tmp_path):
    done = subprocess.run([*late, "-k", "MN-0001"], cwd=tmp_path, capture_output=True, check=False)
    assert b"\r" not in done.stdout
    assert b"\x1b" not in done.stdout


def test_quiet_and_verbose_say_less_and_more(run, faulty):
    late = ("--backend=miniature", faulty("late-first-token"), "-k", "MN-0001 or LC-0001 or LC-0010")
    quiet, plain, verbose = (run(*late, *more) for more in (("-q",), (), ("-v",)))
    assert re.search(r"^MN-0001 broken", quiet.text, re.MULTILINE)
    assert not re.search(r"^LC-0001 holds", quiet.text, re.MULTILINE)
    assert re.search(r"^LC-0001 holds", plain.text, re.MULTILINE)
    assert re.search(r"^ +\d+ out of scope context: ", plain.text, re.MULTILINE)
    assert not re.search(r"^LC-0010 out of scope", plain.text, re.MULTILINE)
    assert re.search(r"^LC-0010 out of scope", verbose.text, re.MULTILINE)
    assert "= findings =" not in run(*late, "-qq").text
