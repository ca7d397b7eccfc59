"""The hooks with which another plugin, or a project's conftest.py, extends this plugin."""

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_longctx.backends import Backend
    from pytest_longctx.deployments.hardware import Machine
    from pytest_longctx.findings.verdicts import Verdict
    from pytest_longctx.launchers import Launcher


@pytest.hookspec(firstresult=True)
def pytest_longctx_make_backend(config: pytest.Config, name: str) -> "Backend | None":
    """
    Hook: return the backend called *name*, or None to let the next plugin try.

    This hook makes the built-in backends too, after the hooks of all other plugins::

        def pytest_longctx_make_backend(name):
            return MyServer() if name == "mine" else None
    """


@pytest.hookspec(firstresult=True)
def pytest_longctx_make_launcher(config: pytest.Config, kind: str, what: str) -> "Launcher | None":
    """
    Hook: return the launcher for ``--longctx-launcher=KIND:WHAT``, or None to let the next plugin try::

        def pytest_longctx_make_launcher(kind, what):
            return Slurm(partition=what) if kind == "slurm" else None
    """


@pytest.hookspec
def pytest_longctx_names(config: pytest.Config, what: str) -> list[str]:  # type: ignore[empty-body]
    """
    Hook: return the names that your plugin provides, for messages and the reference: *what* is "backend" or
    "launcher"::

        def pytest_longctx_names(what):
            return ["mine"] if what == "backend" else []
    """


@pytest.hookspec
def pytest_longctx_judged(item: pytest.Item, verdict: "Verdict") -> None:
    """
    Hook: a finding was judged; called before the test passes, fails or skips::

        def pytest_longctx_judged(item, verdict):
            print(verdict.finding.id, verdict.word)
    """


@pytest.hookspec
def pytest_longctx_describe_machine(config: pytest.Config, machine: "Machine") -> None:
    """
    Hook: add facts to ``machine.facts``, which the header of the results records::

        def pytest_longctx_describe_machine(machine):
            machine.facts["rack"] = "B12"
    """
