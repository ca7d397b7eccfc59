"""
The door: pytest's hooks, wired. What stands behind it is imported when a test first asks for it.

A run in which the plugin is installed and not used pays for this module, `options`, `hookspecs`, `builtin` and `fixtures`.
"""

from typing import Any

import pytest

from pytest_longctx import builtin, fixtures, hookspecs, markers, options
from pytest_longctx.errors import LongctxError


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare flags and ini keys."""
    options.add(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Declare our hooks."""
    pluginmanager.add_hookspecs(hookspecs)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Fold the options, declare the markers, and refuse what cannot work."""
    config.pluginmanager.register(builtin, "longctx-builtin")
    config.pluginmanager.register(fixtures, "longctx-fixtures")
    for name, tokens in markers.LENGTHS.items():
        config.addinivalue_line("markers", f"{name}: contexts of about {tokens:,} tokens (pytest-longctx)")
    for name, meaning in markers.THEMES.items():
        config.addinivalue_line("markers", f"{name}: {meaning} (pytest-longctx)")
    config.addinivalue_line("markers", "finding(*ids): this test judges the findings with these ids (pytest-longctx)")
    config.addinivalue_line(
        "markers", "judges(question): this test judges every finding that asks this (pytest-longctx)"
    )
    try:
        folded = options.fold(config)
        if folded.backend is None:
            return
        from pytest_longctx.reporting import Reporting
        from pytest_longctx.session import open_session

        session = open_session(config, folded)
        _refuse_many_workers(config, session.selection)
    except LongctxError as problem:
        raise pytest.UsageError(str(problem)) from None
    config.pluginmanager.register(Reporting(session), "longctx-reporting")


def _refuse_many_workers(config: pytest.Config, selection: Any) -> None:
    """Each xdist worker would boot its own server on the same devices."""
    workers = config.getoption("numprocesses", None)
    if workers and selection.launcher.boots and not selection.backend.shares_machine:
        raise pytest.UsageError(
            f"-n {workers}: every worker would boot a {selection.backend.name} server of its own on this machine. "
            "Start one server and share it: --longctx-launcher=url:http://127.0.0.1:PORT"
        )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a test its findings, and the deployments they are to be judged on."""
    asked = metafunc.definition.get_closest_marker("judges")
    named = metafunc.definition.get_closest_marker("finding")
    if asked is None and named is None and "deployment" not in metafunc.fixturenames:
        return
    from pytest_longctx.session import known_session

    session = known_session(metafunc.config)
    if session is None:  # no backend: the fixture `deployment` says so when the test is set up
        return
    try:
        if asked is None and named is None:
            chosen = session.selection.bootable()
            metafunc.parametrize("deployment", chosen, ids=[one.name for one in chosen], indirect=True, scope="session")
            return
        cases = session.selection.asking(*asked.args) if asked else session.selection.named(named.args if named else ())
    except LongctxError as problem:
        raise pytest.UsageError(str(problem)) from None
    metafunc.parametrize(
        ("finding", "deployment"),
        [
            pytest.param(
                case.finding,
                case.deployment,
                id=case.id,
                marks=[getattr(pytest.mark, name) for name in case.finding.markers],
            )
            for case in cases
        ],
        indirect=["deployment"],
        scope="session",
    )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out questions that nobody asks of this backend, and keep the tests of one deployment together."""
    if not any(hasattr(item, "callspec") and "deployment" in item.callspec.params for item in items):
        return
    idle = [
        item
        for item in items
        if _param(item, "deployment") is None and "deployment" in getattr(item, "fixturenames", ())
    ]
    if idle:
        config.hook.pytest_deselected(items=idle)
        items[:] = [item for item in items if item not in idle]
    order: dict[str, int] = {}
    for item in items:
        if deployment := _param(item, "deployment"):
            order.setdefault(deployment.name, len(order) + 1)
    items.sort(key=lambda item: order.get(getattr(_param(item, "deployment"), "name", ""), 0))


def _param(item: pytest.Item, name: str) -> Any:
    """The test's parameter *name*; None where it has none, or an empty set of them."""
    found = item.callspec.params.get(name) if hasattr(item, "callspec") else None
    return found if hasattr(found, "title") else None


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Hand the seed to an xdist worker, so that one run has one seed."""
    from pytest_longctx.session import known_session

    if session := known_session(node.config):
        node.workerinput["longctx_seed"] = session.seed
