"""Trouble of this process is no verdict about a server."""

import subprocess
import sys

import pytest

from tests.hostile.servers import Hostile, just, listening, whole

SCRIPT = """
import os, resource, sys, tempfile
from pathlib import Path
from pytest_longctx.backends.vllm import Vllm
from pytest_longctx.client.request import ask
from pytest_longctx.errors import LaunchError
from pytest_longctx.launchers import Launch
from pytest_longctx.launchers.url import UrlLauncher
from pytest_longctx.prompts import PromptFactory
from tests.hostile.servers import deployment, server_at

what, url, spare = sys.argv[1], sys.argv[2], int(sys.argv[3])
backend, prompt = Vllm(), PromptFactory(1, "k", (1000, 100_000))(32)

def work():
    if what == "request":
        return ask(server_at(url), prompt, 4, deadline_s=10.0)
    with UrlLauncher(url).up(Launch(backend, deployment(300.0), None, Path(tempfile.gettempdir()))):
        return "ready"

work()  # imports what is imported late
most = max(map(int, os.listdir("/proc/self/fd")))
resource.setrlimit(resource.RLIMIT_NOFILE, (most + spare, most + spare))
try:
    print(work())
except LaunchError as problem:
    print(f"LaunchError: {problem}")
"""


@pytest.mark.timeout(100)
@pytest.mark.parametrize(
    ("what", "spare"), [("request", 0), ("request", 1), ("request", 2), ("request", 3), ("boot", 0), ("boot", 1)]
)
def test_no_descriptors_left_is_an_error_at_once_and_no_word_about_the_server(what, spare):
    with listening(
        Hostile({"metrics": just(whole(b"", 404))})
    ) as url:  # for counters that stand still, the client waits
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", SCRIPT, what, url, str(spare)],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.stdout.startswith("LaunchError: ")
    assert "could not be asked" in done.stdout or "the lock" in done.stdout
    assert "Too many open files" in done.stdout
    assert "ulimit -n" in done.stdout
    assert done.stderr == ""
