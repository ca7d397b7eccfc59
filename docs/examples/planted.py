"""
A launcher that plants a fault in a healthy server: ``pytest -p planted --longctx-launcher=planted:slower=20 ...``.

``slower=20`` makes the work of its processes take 20 % longer. ``cut=5000`` passes on 5,000 tokens of a longer prompt, without
its middle.
"""

import json
import os
import signal
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from pytest_longctx.errors import UsageError
from pytest_longctx.launchers.process import ProcessLauncher
from pytest_longctx.miniatures.hosted.gateway import Gateway
from pytest_longctx.miniatures.hosted.wire import serving

FAULTS = ("slower", "cut")
RUNNING_S = 0.05


class Planted(ProcessLauncher):
    """Runs the engine as the launcher ``process`` does, and plants one fault when it is ready."""

    name = "planted"

    def __init__(self, what=""):
        fault, _, number = what.partition("=")
        if fault not in FAULTS or not number.isdecimal():
            raise UsageError(f"--longctx-launcher=planted:{what}: neither slower=PERCENT nor cut=TOKENS")
        self.fault, self.number = fault, int(number)

    @contextmanager
    def up(self, launch):
        pids = []
        with super().up(replace(launch, started=lambda pid: (pids.append(pid), launch.started(pid)))) as server:
            if self.fault == "slower":
                with slowed(engine_group(pids[0]), self.number / 100):
                    yield server
            else:
                with serving(Cutting(server.url, kept=self.number)) as url:
                    yield replace(server, url=url)


def engine_group(supervisor):
    """The process group of the engine: it leads a group of its own below its supervisor."""
    (engine,) = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    return os.getpgid(int(engine))


@contextmanager
def slowed(group, share):
    """Stop the process group *group* for *share* of each time that it ran."""
    over = threading.Event()

    def stop_and_go():
        began_s = time.monotonic()
        while not over.wait(RUNNING_S):
            os.killpg(group, signal.SIGSTOP)
            time.sleep(share * (time.monotonic() - began_s))
            os.killpg(group, signal.SIGCONT)
            began_s = time.monotonic()

    thread = threading.Thread(target=stop_and_go, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@dataclass
class Cutting(Gateway):
    """A gateway that keeps the beginning and the end of a prompt of token ids, *kept* tokens in all."""

    kept: int = 0

    def post(self, post):
        asked = json.loads(post.body or b"{}")
        prompt = asked.get("prompt")
        if isinstance(prompt, list) and len(prompt) > self.kept:
            half = self.kept // 2
            asked["prompt"] = prompt[:half] + prompt[len(prompt) - (self.kept - half) :]
            post = replace(post, body=json.dumps(asked).encode())
        return super().post(post)


def pytest_longctx_make_launcher(kind, what):
    return Planted(what) if kind == "planted" else None


def pytest_longctx_names(what):
    return ["planted"] if what == "launcher" else []
