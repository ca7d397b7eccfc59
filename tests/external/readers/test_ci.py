"""The workflows, the action and the component validated against the published schemas in check-jsonschema."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "docs" / "ci"


@pytest.mark.parametrize(
    ("name", "schema"),
    [
        ("github-actions.yml", ("vendor.github-workflows",)),
        ("gitlab-ci.yml", ("vendor.gitlab-ci", "--data-transform", "gitlab-ci")),
        ("buildkite.yml", ("vendor.buildkite",)),
    ],
)
def test_a_workflow_is_valid(name, schema):
    status, said = checked(FOLDER / name, *schema)
    assert status == 0, said


def checked(path, *schema):
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", *schema, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_the_action_is_valid():
    status, said = checked(ROOT / "action.yml", "vendor.github-actions")
    assert status == 0, said


def test_the_component_is_valid(tmp_path):
    """As one document: GitLab reads the head and then the job, with the inputs in it."""
    head, job = component().split("\n---\n")
    defaults = yaml.safe_load(head)["spec"]["inputs"]
    plain = {name: json.dumps(each["default"]).strip('"') for name, each in defaults.items()}
    filled = re.sub(r"\$\[\[ inputs\.([\w-]+) \]\]", lambda found: plain[found[1]], job)
    (tmp_path / "whole.yml").write_text(f"{head}\n{filled}", encoding="utf-8")
    status, said = checked(tmp_path / "whole.yml", "vendor.gitlab-ci", "--data-transform", "gitlab-ci")
    assert status == 0, said


@pytest.mark.parametrize(("was", "instead"), [("type: array", "type: list"), ("stage: $", "stages: $")])
def test_a_wrong_key_of_the_component_is_found(tmp_path, monkeypatch, was, instead):
    text = component().replace(was, instead)
    monkeypatch.setitem(globals(), "component", lambda: text)
    with pytest.raises(AssertionError, match="validation errors"):
        test_the_component_is_valid(tmp_path)


def component():
    return (ROOT / "templates" / "longctx" / "template.yml").read_text(encoding="utf-8")
