"""The findings and deployments of a run, selected by the options and the data."""

import fnmatch
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest

from pytest_longctx import paths, processes, registry
from pytest_longctx import plan as pytest_longctx_plan
from pytest_longctx.backends import Backend, defaults, environments
from pytest_longctx.deployments import deployment
from pytest_longctx.deployments.cpu_speed import Speed
from pytest_longctx.deployments.deployment import Deployment
from pytest_longctx.deployments.hardware import Hardware, Machine
from pytest_longctx.devices import calibration, detect
from pytest_longctx.errors import LongctxError, UsageError, unknown
from pytest_longctx.findings import ask
from pytest_longctx.findings import finding as findings_module
from pytest_longctx.findings.finding import Finding
from pytest_longctx.findings.scope import Case, Conditions, machine_lacks, match, mismatch
from pytest_longctx.launchers import Launcher
from pytest_longctx.launchers.boot import BootSettings
from pytest_longctx.plan import Plan
from pytest_longctx.plugin.options import Options
from pytest_longctx.reports import properties


def pair_of(item: pytest.Item) -> tuple[Any, Any]:
    """
    Return the finding and the deployment selected for a test; (None, None) without them, or if the parameter "finding"
    belongs to another plugin.
    """
    params = item.callspec.params if hasattr(item, "callspec") else {}
    finding, one = params.get("finding"), params.get("deployment")
    return (finding, one) if isinstance(finding, Finding) and isinstance(one, Deployment) else (None, None)


def check_writable(results: Path) -> None:
    """Raise `UsageError` unless the folder *results* can be created and written. No file is left."""
    there = next(path for path in (results, *results.parents) if path.exists())
    try:
        # A unique name: workers of one run check at the same time, and removed each other's folder.
        Path(mkdtemp(dir=there)).rmdir()
    except OSError as problem:
        raise UsageError(f"--longctx-results: {results} cannot be written: {problem.strerror}") from None


@dataclass(frozen=True)
class Selection:
    """The findings, deployments and options of a run, checked together."""

    config: pytest.Config
    options: Options

    @cached_property
    def backend(self) -> Backend:
        """The backend selected for this run. Raises `UsageError`."""
        name = self.options.backend
        if name is None:
            raise UsageError(f"no backend is selected; use --backend=NAME. Known: {', '.join(self._names('backend'))}")
        made: Backend | None = self.config.hook.pytest_longctx_make_backend(config=self.config, name=name)
        if made is None:
            raise UsageError(f"--backend: {unknown('backend', name, self._names('backend'))}")
        if self.launcher.boots and not made.launches:
            raise UsageError(
                f"--backend={name} cannot boot a server; give the URL of a running one: --longctx-launcher=url:http://HOST:PORT"
            )
        return made

    @cached_property
    def launcher(self) -> Launcher:
        """The launcher selected for this run. Raises `UsageError`."""
        kind, _, what = self.options.launcher.partition(":")
        made: Launcher | None = self.config.hook.pytest_longctx_make_launcher(config=self.config, kind=kind, what=what)
        if made is None:
            raise UsageError(f"--longctx-launcher: {unknown('launcher', kind, self._names('launcher'))}")
        if lacking := [name for name in (*Launcher.__annotations__, "up") if not hasattr(made, name)]:
            raise UsageError(
                f"--longctx-launcher={kind}: {type(made).__name__} has no {', '.join(lacking)}. A launcher needs "
                f"{', '.join(Launcher.__annotations__)} and up; pytest_longctx.launchers.Launcher explains each"
            )
        return made

    def _names(self, what: str) -> list[str]:
        return sorted(
            {name for some in self.config.hook.pytest_longctx_names(config=self.config, what=what) for name in some}
        )

    @property
    def folders(self) -> tuple[Path, ...]:
        """The data folders of findings and deployments: the package's own suites, and the project's."""
        return paths.data(self.options.data, "--longctx-data")

    @cached_property
    def findings(self) -> dict[str, Finding]:
        """Every finding on disk, by id. Raises `TableError`."""
        found = findings_module.load_all(tuple(folder / "findings" for folder in self.folders))
        for finding in found.values():
            for name in finding.scope.deployment:
                if "*" not in name and name not in self.known_deployments:
                    raise UsageError(
                        f"{finding.id}: scope.deployment: {unknown('deployment', name, self.known_deployments)}"
                    )
        return found

    @cached_property
    def known_deployments(self) -> dict[str, Deployment]:
        """Every deployment on disk, by name. Raises `TableError`."""
        return deployment.load_all(tuple(folder / "deployments" for folder in self.folders))

    @cached_property
    def deployments(self) -> tuple[Deployment, ...]:
        """
        The deployments selected for this run, with dtype and timeouts resolved for this machine. Raises
        `UsageError`.
        """
        return tuple(defaults.settle(one, self.backend, self.here(one)) for one in self._chosen)

    @cached_property
    def _chosen(self) -> tuple[Deployment, ...]:
        backend = self.backend.name
        if self.options.deployments:
            chosen = tuple(one for name in self.options.deployments for one in self._matching(name))
            for one in chosen:
                if one.backend != backend:
                    raise UsageError(f"--longctx-deployment: {one.name} is for --backend={one.backend}, not {backend}")
            if not self.launcher.boots and len(chosen) > 1:
                raise UsageError("--longctx-deployment: the server at a URL runs one deployment; name only one")
            return chosen
        if not self.launcher.boots:
            return (deployment.attached(backend),)
        found = tuple(one for one in self.known_deployments.values() if one.backend == backend and not one.on_request)
        if not found:
            raise UsageError(f"there is no deployment for --backend={backend} in {', '.join(map(str, self.folders))}")
        there = self.machine.hardware
        # Asking an interpreter for the engine's version takes a moment; without a GPU it decides nothing here.
        return defaults.without_superseded(found, there, self.version if there and there.is_gpu else None)

    def _matching(self, name: str) -> list[Deployment]:
        """
        Return the deployment with the name *name*, or the deployments of this backend that match *name* as a pattern.
        Raises `UsageError`.
        """
        if "*" not in name:
            return [self._named(name)]
        ours = {one.name: one for one in self.known_deployments.values() if one.backend == self.backend.name}
        found = [ours[each] for each in fnmatch.filter(ours, name)]
        if not found:
            raise UsageError(
                f"--longctx-deployment: {name} matches none of the {len(ours)} deployments for --backend={self.backend.name}"
            )
        return found

    def _named(self, name: str) -> Deployment:
        if name.endswith(".toml"):
            return deployment.load(self.config.invocation_params.dir / name)
        if name not in self.known_deployments:
            known = [one.name for one in self.known_deployments.values() if one.backend == self.backend.name]
            raise UsageError(f"--longctx-deployment: {unknown('deployment', name, known)}")
        return self.known_deployments[name]

    @cached_property
    def machine(self) -> Machine:
        """The hardware on which the servers run. For a server behind a URL, only ``--longctx-hardware`` is known."""
        if self.options.hardware is not None:
            try:
                here = Machine(Hardware.machine(self.options.hardware), {"hardware_said_by": "--longctx-hardware"})
            except ValueError as problem:
                raise UsageError(f"--longctx-hardware: {problem}") from None
        else:
            here = detect.detect() if self.launcher.boots else Machine(None)
        self.config.hook.pytest_longctx_describe_machine(config=self.config, machine=here)
        return here

    def here(self, one: Deployment) -> Machine:
        """Return the machine for a server of *one*, with its CPU speed measured if the backend computes on the CPU."""
        if not (self.backend.on_cpu and self.launcher.here and self.launcher.needs_engine):
            return self.machine
        if one.name not in self._machines:
            speed = self._speed(processes.environment(self.backend.recipe(one, "", 0), os.environ))
            # Also where the hardware was typed, the processor is that of this machine.
            flags = detect.cpu_flags() if self.machine.cpu_flags is None else self.machine.cpu_flags
            self._machines[one.name] = replace(self.machine, cpu_flags=flags).measured(speed)
        return self._machines[one.name]

    def _speed(self, env: Mapping[str, str]) -> Speed | None:
        key = calibration.deciding(env)
        if key not in self._speeds:
            try:
                python = environments.interpreter(self.backend, self.options.python)
            except LongctxError:  # the boot reports it
                return None
            self._speeds[key] = calibration.measure(python, env)
        return self._speeds[key]

    @cached_property
    def _machines(self) -> dict[str, Machine]:
        return {}

    @cached_property
    def _speeds(self) -> dict[Any, Speed | None]:
        return {}

    @cached_property
    def version(self) -> str | None:
        """The version of the selected backend's engine; None if unknown without a boot."""
        if not self.launcher.needs_engine:
            return None
        try:
            python = environments.interpreter(self.backend, self.options.python)
        except LongctxError:
            return None
        version = environments.installed_version(self.backend, python)
        return None if version == "unknown" else version

    def check(self) -> None:
        """Check all options and all data of the selection. Raises `LongctxError` for the first fault."""
        for part in (self.backend, self.findings, self.deployments, self.machine):
            assert part is not None
        if self.options.load is not None and self.options.load not in registry.LOADS:
            raise UsageError(f"--longctx-load: {unknown('tool', self.options.load, registry.LOADS)}")
        if self.options.junit_properties not in properties.PLACES:
            raise UsageError(
                f"--longctx-junit-properties: {unknown('place', self.options.junit_properties, properties.PLACES)}"
            )
        for one in self.deployments:
            for question in one.only_questions:
                if question not in ask.questions():
                    raise UsageError(f"{one.name}: only_questions: {unknown('question', question, ask.questions())}")
        python = self.options.python
        if python is not None and not (python.is_file() and os.access(python, os.X_OK)):
            raise UsageError(f"--longctx-python: {python} must be an executable file")
        check_writable(self.options.results)

    def asking(self, questions: Sequence[str]) -> list[Case]:
        """Return every case of one question. Raises `UsageError` for an unknown question."""
        known = ask.questions()
        question = questions[0] if len(questions) == 1 else ""
        if question not in known:
            raise UsageError(f"@pytest.mark.judges takes one question; {unknown('question', str(question), known)}")
        # A server at a URL is measured as it is: figures published elsewhere say nothing about it.
        wanted = self.findings.values() if self.launcher.boots or question != "claimed" else ()
        return self._cases(finding for finding in wanted if finding.question == question)

    def named(self, ids: Sequence[str]) -> list[Case]:
        """Return the cases of the findings with the ids *ids*. Raises `UsageError` for an unknown id."""
        if not ids:
            raise UsageError("@pytest.mark.finding takes the ids of the findings, as in finding('LC-0001')")
        for name in ids:
            if name not in self.findings:
                raise UsageError(unknown("finding", name, self.findings))
        return self._cases(self.findings[name] for name in ids)

    def bootable(self) -> list[Deployment]:
        """Return the deployments that this machine can run, for tests without a finding."""
        return [one for one in self.deployments if self.not_bootable(one) is None]

    def not_bootable(self, one: Deployment) -> str | None:
        """Return why the deployment *one* is not booted for a test without a finding; None if it is booted."""
        if one.only_named or one.only_questions:
            return "it is used only by findings that name it" + (" or ask its questions" if one.only_questions else "")
        return machine_lacks(one, self.machine.hardware)

    @property
    def has_devices_to_lease(self) -> bool:
        """Whether several selected deployments can run at once, each on its own devices."""
        there = self.machine.hardware
        needs = [Hardware.parse(one.hardware) if one.hardware else None for one in self.deployments]
        return (
            self.launcher.leases_devices
            and there is not None
            and there.kind != "cpu"
            and all(one is not None and one.kind != "cpu" for one in needs)
        )

    @property
    def boot_settings(self) -> BootSettings:
        """The boot settings of every deployment of this run, from the options."""
        given = self.options
        logs, hardware = given.results / "boots", self.machine.hardware
        return BootSettings(self.launcher, self.backend, hardware, logs, given.python, given.allow_busy_gpu)

    def case(self, finding: Finding, one: Deployment) -> Case:
        """
        Return the case of *finding* on the deployment *one*, with the reason why it cannot be judged, if known before a
        boot.
        """
        return Case(finding, one, mismatch(finding, self._conditions(one, finding), settled=False))

    def plan(self, chosen: Iterable[Case]) -> Plan:
        """Return the plan of the *chosen* cases, made without a boot."""
        return pytest_longctx_plan.make(chosen, self.deployments, self.backend, self.machine)

    def _cases(self, wanted: Iterable[Finding]) -> list[Case]:
        return match(wanted, self.deployments, self._conditions)

    def _conditions(self, one: Deployment, finding: Finding) -> Conditions:
        # Only findings with a version need it, and asking an interpreter takes a moment.
        version = self.version if finding.scope.version or one.version else None
        here = self.here(one)
        return Conditions(
            one, here.hardware, version, one.max_model_len, host_bytes=here.host_bytes, cpu_flags=here.cpu_flags
        )
