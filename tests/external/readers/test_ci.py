"""The workflows in docs/ci validated against the published schemas in check-jsonschema."""

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[3] / "docs" / "ci"


@pytest.mark.parametrize(
    ("name", "schema"),
    [
        ("github-actions.yml", ("vendor.github-workflows",)),
        ("gitlab-ci.yml", ("vendor.gitlab-ci", "--data-transform", "gitlab-ci")),
        ("buildkite.yml", ("vendor.buildkite",)),
    ],
)
def test_a_workflow_is_valid(name, schema):
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", *schema, str(FOLDER / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
