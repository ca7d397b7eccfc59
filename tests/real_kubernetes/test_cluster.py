"""The launcher's conversation with a real API server. Needs ``.ci/kube-apiserver``. Not part of a bare ``pytest``."""

import json
import os
import signal
import subprocess

import pytest

from tests.real_kubernetes.conftest import command, miniature, until

pytestmark = pytest.mark.usefixtures("nothing_is_left")

LOOK = """
import json
import httpx

def test_it(server, ask, prompt):
    assert ask(prompt(60000), 4).ending == "complete"
    status = httpx.get(f"{server.url}/v1/models", trust_env=False).status_code
    print("SEEN", json.dumps({"status": status, "words": dict(server.words), "key": server.secrets[0], "log": str(server.log)}))
"""


def test_a_pod_serves_through_the_api(tmp_path, run, world):
    text, code = run(miniature(tmp_path, "served"), LOOK)
    assert code == 0, text
    seen = json.loads(next(line for line in text.splitlines() if "SEEN {" in line).partition("SEEN ")[2])
    assert seen["status"] == 401  # nobody gets in without the key
    assert (seen["words"]["node"], seen["words"]["reached"]) == ("node-a", "port-forward")
    (log,) = (tmp_path / "results" / "boots").glob("*.log")
    assert "Application startup complete" in log.read_text()
    results = tmp_path / "results" / "results.jsonl"
    assert not results.exists() or seen["key"] not in results.read_text()
