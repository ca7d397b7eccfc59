"""The CI job that ``longctx init`` writes: install, judge, keep the report."""

import json
import shlex
from pathlib import Path
from typing import Final

from pytest_longctx.backends import Backend

_REPORTED: Final = "--junitxml=report.xml --longctx-report=results/report.html"

_GITHUB: Final = """\
# Judge this folder's findings for every pull request.
# A recorded time holds for the machine that recorded it: record on the runner.
name: long context
on:
  pull_request:
  workflow_dispatch:
permissions:
  contents: read
jobs:
  findings:
    runs-on: {runner}
    timeout-minutes: 60
    defaults:
      run:
        working-directory: {quoted}
    steps:
      - uses: actions/checkout@v4
      - uses: actions/setup-python@v5
        with:
          python-version: "3.12"
      - run: pip install 'pytest-longctx[report]'
{install}      - run: longctx doctor --backend {backend}
      - run: {command}
      - uses: actions/upload-artifact@v4
        if: always()
        with:
          name: long-context
          path: |
            {folder}/report.xml
            {folder}/results/
"""

_GITLAB: Final = """\
# Judge this folder's findings for every merge request.
# A recorded time holds for the machine that recorded it: record on the runner.
long-context:
  image: python:3.12
{tags}  timeout: 1 hour
  rules:
    - if: $CI_PIPELINE_SOURCE == "merge_request_event"
    - if: $CI_PIPELINE_SOURCE == "web"
  script:
    - {enter}
    - pip install 'pytest-longctx[report]'
{install}    - longctx doctor --backend {backend}
    - {command}
  artifacts:
    when: always
    paths: [{results}, {report}]
    reports:
      junit: {report}
"""


def made(ci: str, folder: Path, backend: Backend, command: str) -> dict[Path, str]:
    """
    Return the CI file, by its path at the root of the repository of *folder*. *ci* is ``github``, ``gitlab`` or ``none``.

    *command* is ``pytest``, or a command that names its folder and runs from the folder of ``longctx init``.
    """
    if ci == "none":
        return {}
    root = _root(folder)
    gpu = not backend.on_cpu and not backend.shares_machine and backend.name != "transformers"
    place = folder if command == "pytest" else Path()
    where = place.absolute().relative_to(root).as_posix() if place.absolute().is_relative_to(root) else "."
    words = {
        "backend": backend.name,
        "folder": where,
        "command": json.dumps(f"{command} {_REPORTED}"),
        "quoted": json.dumps(where),
        "enter": json.dumps(f"cd {shlex.quote(where)}"),
        "results": json.dumps(f"{where}/results"),
        "report": json.dumps(f"{where}/report.xml"),
    }
    missing = f"# {backend.name} must be installed on the runner\n" if backend.package else ""
    installs = f"longctx engine {backend.name}" if backend.install else ""
    if ci == "github":
        install = f"      - run: {installs}\n" if installs else missing and f"      {missing}"
        runner = "[self-hosted, gpu]" if gpu else "ubuntu-latest"
        return {root / ".github/workflows/long-context.yml": _GITHUB.format(runner=runner, install=install, **words)}
    install = f"    - {installs}\n" if installs else missing and f"    {missing}"
    tags = "  tags: [gpu]\n" if gpu else ""
    return {root / ".gitlab-ci.yml": _GITLAB.format(tags=tags, install=install, **words)}


def _root(folder: Path) -> Path:
    """Return the root of the repository that contains *folder*; *folder* itself without a repository."""
    here = folder.absolute()
    return next((each for each in (here, *here.parents) if (each / ".git").exists()), here)
