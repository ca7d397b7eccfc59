"""``longctx doctor``: what can be judged on this machine, what is missing, and how to fix it."""

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pytest_longctx import backends, paths, registry
from pytest_longctx.backends import Backend, environments
from pytest_longctx.cli.doctor import machine_checks
from pytest_longctx.cli.doctor.machine_checks import Check
from pytest_longctx.deployments import deployment
from pytest_longctx.deployments.deployment import Deployment
from pytest_longctx.deployments.hardware import Machine
from pytest_longctx.devices.detect import detect
from pytest_longctx.errors import UsageError, unknown
from pytest_longctx.findings.scope import machine_lacks
from pytest_longctx.redaction import shown
from pytest_longctx.toml import in_range

_PARTS = ("package", "machine", "engines", "launchers")


@dataclass(frozen=True, slots=True)
class Judgeable:
    """One backend, and the deployments that it can boot on this machine."""

    backend: str
    version: str | None
    deployments: tuple[str, ...]
    of: int
    """Number of deployments for that backend."""

    def __str__(self) -> str:
        version = f" {self.version}" if self.version else ""
        return f"{self.backend}{version}: {len(self.deployments)} of {self.of} deployments fit this machine's hardware"


def add(commands: Any) -> None:
    """Add the subcommand ``longctx doctor`` to the console parser."""
    parser: ArgumentParser = commands.add_parser(
        "doctor", help="show what can be judged on this machine, what is missing, and how to install it"
    )
    parser.add_argument(
        "--backend", metavar="NAME", help="exit 1 unless this backend can be judged; default: any engine"
    )
    parser.add_argument("--data", type=Path, action="append", default=[], help="folder with deployments/")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(given: Namespace) -> int:
    """Print the doctor's output. Return 1 if no engine (or not the wanted one) can be judged as a process here, else 0."""
    if given.backend is not None and given.backend not in registry.BACKENDS:
        raise UsageError(unknown("backend", given.backend, registry.BACKENDS))
    folders = paths.data(given.data, "--data")
    machine = detect()
    found = machine_checks.every(machine)
    known = deployment.load_all(tuple(folder / "deployments" for folder in folders)).values()
    usable = [judgeable(made, known, machine) for made in _usable(found["usable"], given.backend)]
    checks: list[Check] = [check for part in _PARTS for check in found[part]]
    fine = verdict(checks, usable)
    if given.json:
        print(json.dumps(as_json(found, usable, fine=fine), indent=1))
    else:
        print(shown("\n".join(lines(found, usable, fine=fine, wanted=given.backend))))
    return 0 if fine else 1


def _usable(installed: list[Backend], wanted: str | None) -> list[Backend]:
    """Return the backends to count: the wanted backend if it can be used, otherwise the backends with an installed engine."""
    if wanted is None:
        return installed
    made = backends.named(wanted)
    bundled = made.package is None and made.launches
    return [made] if bundled or wanted in {one.name for one in installed} else []


def judgeable(made: Backend, known: Iterable[Deployment], machine: Machine) -> Judgeable:
    """Return what *machine* can judge with the backend *made*, by hardware and version."""
    ours = [one for one in known if one.backend == made.name]
    version = None
    if made.package is not None:
        version = environments.installed_version(made, environments.interpreter(made))
    fits = [one for one in ours if machine_lacks(one, machine.hardware) is None and _takes(one, version)]
    return Judgeable(made.name, version, tuple(one.name for one in fits), len(ours))


def _takes(one: Deployment, version: str | None) -> bool:
    return version is None or one.version is None or in_range(version, one.version)


def verdict(checks: Iterable[Check], usable: Iterable[Judgeable]) -> bool:
    """Return whether findings can be judged: no check failed, and an engine with a suitable deployment is installed."""
    return all(check.word != "wrong" for check in checks) and any(one.deployments for one in usable)


def lines(
    found: Mapping[str, Any], usable: Iterable[Judgeable], *, fine: bool, wanted: str | None = None
) -> Iterator[str]:
    """Yield the doctor's output for a terminal: the answer, then every check."""
    rows = [str(one) for one in usable]
    yield "can be judged here:" if fine else "nothing can be judged here yet:"
    yield from (f"  {row}" for row in rows)
    if not rows:
        yield f"  no engine is installed as {wanted}" if wanted else "  no engine is installed"
    yield "  and, with --backend=miniature, the suite itself; with --longctx-launcher=url:URL, any server that runs"
    for part in _PARTS:
        yield f"\n{part}"
        for check in found[part]:
            yield from (f"  {line}" for line in check.lines())


def as_json(found: Mapping[str, Any], usable: Iterable[Judgeable], *, fine: bool) -> dict[str, Any]:
    """Return the doctor's output as one JSON object."""
    return {
        "ok": fine,
        "judgeable": [asdict(one) for one in usable],
        "checks": [{"part": part, **asdict(check)} for part in _PARTS for check in found[part]],
    }
