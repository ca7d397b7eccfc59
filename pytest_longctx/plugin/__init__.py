"""
The plugin's pytest hooks, which import the rest of the package when a test first needs it.

A pytest run that has the plugin installed but does not use it imports only this module, `options`, `markers`,
`hookspecs` and `fixtures`.
"""

from typing import Any

import pytest

from pytest_longctx.findings import markers
from pytest_longctx.plugin import fixtures, hookspecs, options

_REPORTING = "longctx-reporting"
_DESELECTING = "longctx-deselecting"
"""The name under which the deselecting plugin is registered, if a backend is selected."""
_BESIDE_S = 300.0
"""Time of a test outside its waits for the server: it makes long prompts, and counters settle."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the plugin's command-line flags and ini keys to pytest."""
    options.add(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Declare the plugin's own hooks (hookspecs) to pytest."""
    pluginmanager.add_hookspecs(hookspecs)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Read the plugin's options, declare its markers, and reject a run that cannot work."""
    config.pluginmanager.register(fixtures, "longctx-fixtures")
    for name, tokens in markers.LENGTHS.items():
        config.addinivalue_line("markers", f"{name}: contexts of about {tokens:,} tokens (pytest-longctx)")
    for name, meaning in markers.THEMES.items():
        config.addinivalue_line("markers", f"{name}: {meaning} (pytest-longctx)")
    config.addinivalue_line("markers", "finding(*ids): this test judges the findings with these ids (pytest-longctx)")
    config.addinivalue_line(
        "markers", "judges(question): this test judges every finding that asks this (pytest-longctx)"
    )
    if not options.in_use(config):
        return
    from pytest_longctx.errors import LongctxError
    from pytest_longctx.plugin import builtins
    from pytest_longctx.plugin.deselection import Deselecting
    from pytest_longctx.plugin.github import GitHubAnnotations
    from pytest_longctx.plugin.recorder import Recorder
    from pytest_longctx.plugin.resume import Resuming
    from pytest_longctx.plugin.session import open_session
    from pytest_longctx.plugin.sharding import Sharding
    from pytest_longctx.redaction import shown
    from pytest_longctx.reports import html

    config.pluginmanager.register(builtins, "longctx-builtin")
    try:
        session = open_session(config, options.fold(config))
        if session.options.plan:
            _do_without_workers(config)
        if session.options.report is not None:
            html.check()
        _refuse_many_workers(config, session.selection)
        session.selection.check()
        session.hide_secrets()
        sharding = Sharding.of(session)
    except LongctxError as problem:
        raise pytest.UsageError(shown(str(problem))) from None
    reporting = Recorder(session)
    config.pluginmanager.register(reporting, _REPORTING)
    config.pluginmanager.register(Deselecting(session), _DESELECTING)
    if session.options.github and not hasattr(config, "workerinput"):
        config.pluginmanager.register(GitHubAnnotations(reporting), "longctx-github")
    _show_progress_of_workers(config)
    if sharding is not None:
        config.pluginmanager.register(sharding, "longctx-sharding")
    if session.earlier is not None:
        config.pluginmanager.register(Resuming(session, session.earlier), "longctx-resume")


def _show_progress_of_workers(config: pytest.Config) -> None:
    """Print the progress of waits in xdist's workers, on xdist's controller."""
    if hasattr(config, "workerinput") or not config.pluginmanager.hasplugin("xdist"):
        return
    if config.getoption("numprocesses", None) or config.getoption("dist", "no") != "no":
        from pytest_longctx.plugin.worker_progress import WorkerProgress

        config.pluginmanager.register(WorkerProgress(config), "longctx-worker-progress")


def _do_without_workers(config: pytest.Config) -> None:
    """Disable xdist for a plan, because a plan runs no test and xdist reports a worker without tests as an internal error."""
    if config.pluginmanager.hasplugin("xdist"):  # it reads these after us
        config.option.numprocesses, config.option.dist, config.option.tx = None, "no", []


def _refuse_many_workers(config: pytest.Config, selection: Any) -> None:
    """Reject several workers unless each deployment has its own devices and its own worker."""
    workers = config.getoption("numprocesses", None)
    if not workers or not selection.launcher.boots or selection.backend.shares_machine:
        return
    if selection.has_devices_to_lease:
        return
    raise pytest.UsageError(
        f"-n {workers}: each worker would boot its own {selection.backend.name} server on this machine. "
        "Start one server and share it: --longctx-launcher=url:http://127.0.0.1:PORT"
    )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """
    Return a scheduler that sends all tests of a deployment to one worker, if deployments lease devices; otherwise None,
    and xdist decides.
    """
    if not config.pluginmanager.hasplugin(_REPORTING):
        return None
    from pytest_longctx.plugin.session import session_of

    selection = session_of(config).selection
    if selection.backend.shares_machine or not selection.has_devices_to_lease:
        return None
    from pytest_longctx.plugin.xdist import ByDeployment

    return ByDeployment(config, log, (one.name for one in selection.deployments))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize a test with its findings and the deployments on which they are judged."""
    asked = metafunc.definition.get_closest_marker("judges")
    named = metafunc.definition.get_closest_marker("finding")
    if asked is None and named is None and not _wants_our_deployment(metafunc):
        return
    if not metafunc.config.pluginmanager.hasplugin(_REPORTING):
        return  # no backend was chosen; the fixtures report it at set-up
    from pytest_longctx.errors import LongctxError, UsageError
    from pytest_longctx.plugin.session import session_of

    session = session_of(metafunc.config)
    if asked is None and named is None:
        chosen = session.selection.bootable()
        metafunc.parametrize("deployment", chosen, ids=[one.name for one in chosen], indirect=True, scope="session")
        return
    try:
        if "finding" not in metafunc.fixturenames:
            raise UsageError(
                "this test is marked to judge findings, but uses neither of the fixtures `finding` and `judge`"
            )
        cases = session.selection.asking(asked.args) if asked else session.selection.named(named.args if named else ())
    except LongctxError as problem:
        # An error raised here would carry pytest's own traceback; it is raised after collection instead.
        session.problems.append(f"{metafunc.definition.nodeid}: {problem}")
        if not {"finding", "deployment"} <= set(metafunc.fixturenames):
            return
        cases = []
    metafunc.parametrize(
        ("finding", "deployment"),
        [
            pytest.param(
                case.finding,
                case.deployment,
                id=case.id,
                marks=[
                    *(getattr(pytest.mark, name) for name in case.finding.markers),
                    *_patience(metafunc, case),
                ],
            )
            for case in cases
        ],
        indirect=["deployment"],
        scope="session",
    )


def _patience(metafunc: pytest.Metafunc, case: Any) -> list[pytest.MarkDecorator]:
    """
    Return a time-limit marker of pytest-timeout for the test, at least as long as the deadlines of its boot and its
    requests.

    None if they are unknown: each wait has its own deadline, and a project's limit would end a working server.
    """
    own = metafunc.definition.get_closest_marker("timeout") is not None
    if own or not metafunc.config.pluginmanager.hasplugin("timeout"):
        return []
    return [pytest.mark.timeout(0 if case.patience_s is None else case.patience_s + _BESIDE_S)]


def _wants_our_deployment(metafunc: pytest.Metafunc) -> bool:
    """Return whether the test uses the fixture ``deployment``, and neither the test nor its project defines it."""
    if "deployment" not in metafunc.fixturenames:
        return False
    if any("deployment" in str(mark.args[:1]) for mark in metafunc.definition.iter_markers("parametrize")):
        return False
    known = metafunc.definition._fixtureinfo.name2fixturedefs.get("deployment", ())  # noqa: SLF001 - no public way to ask
    return bool(known) and known[-1].func.__module__ == fixtures.__name__


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect tests of questions without a finding for this backend, and group the tests by deployment."""
    if not config.pluginmanager.hasplugin(_REPORTING):
        return
    from pytest_longctx.plugin.session import session_of

    session = session_of(config)
    if session.problems and not hasattr(config, "workerinput"):
        raise pytest.UsageError("\n".join(session.problems))
    if not session.problems:  # an xdist worker must not raise here; its tests fail in their set-up instead
        config.pluginmanager.getplugin(_DESELECTING).leave_out(items)
    order: dict[str, int] = {}
    for item in items:
        if deployment := _deployment(item):
            order.setdefault(deployment.name, len(order) + 1)
            longest = session.longest_prompts.get(deployment.name, 0)
            session.longest_prompts[deployment.name] = max(longest, *_prompts(item, deployment))
    items.sort(key=lambda item: order.get(getattr(_deployment(item), "name", ""), 0))


def _deployment(item: pytest.Item) -> Any:
    """Return the deployment with which a collected test is parametrized; None without a deployment."""
    found = item.callspec.params.get("deployment") if hasattr(item, "callspec") else None
    return found if hasattr(found, "timeouts") else None


def _prompts(item: Any, deployment: Any) -> tuple[int, ...]:
    """Return the prompt lengths of the test *item* in tokens; empty if its finding has none."""
    finding = item.callspec.params.get("finding")
    return (0, *finding.ask.every_length(deployment.max_model_len)) if finding is not None else (0, 0)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Pass the seed of the run to an xdist worker, so that all tests use one seed."""
    if node.config.pluginmanager.hasplugin(_REPORTING):
        from pytest_longctx.plugin.session import session_of

        node.workerinput["longctx_seed"] = session_of(node.config).seed
