"""``longctx plan``: the plan of a command, of a file that starts servers, or of the deployments that findings need."""

import argparse
import json
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_longctx.errors import LongctxError, UsageError
from pytest_longctx.redaction import cleaned, secret_values, shown

if TYPE_CHECKING:
    from pytest_longctx.plan.answer import Answer
    from pytest_longctx.plan.runs import Plan
    from pytest_longctx.plan.typed import Options, Planned

_EXAMPLES = """\
examples:
  longctx plan --hardware 8xH100 -- vllm serve MODEL --tensor-parallel-size 8
  longctx plan --hardware 4x80GiB --model ./config.json -- python -m sglang.launch_server --model-path MODEL --tp 4
  longctx plan --hardware 8xH200 compose.yaml
  longctx plan deployment.toml
  longctx plan --hardware 8xH200 --backend sglang
"""


def add(commands: Any) -> None:
    """Add the subcommand ``longctx plan`` to the console parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "plan",
        help="predict what a command, a manifest or a run needs, and whether it fits; boots no server",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "start",
        nargs="*",
        metavar="START",
        help="after --: the command that starts a server; or one file: compose, Pod, Deployment, StatefulSet, "
        "LeaderWorkerSet, recipe of vLLM (YAML or JSON), deployment (TOML). Without: what the findings of a backend need",
    )
    parser.add_argument("--hardware", help="for example 8xH200, or 4x80GiB for other devices")
    parser.add_argument(
        "--model", type=Path, help="folder with a config.json, or that file; needed if the model's name is not a folder"
    )
    parser.add_argument(
        "--engine-version",
        help="version of the engine; default: the version of the image, or the newest recorded version",
    )
    parser.add_argument("--host-memory", type=float, metavar="GIB", help="memory of one host in GiB; default: unknown")
    parser.add_argument(
        "--solve", action="store_true", help="also show the longest context that fits, for each KV cache dtype"
    )
    parser.add_argument(
        "--compare", metavar="OTHER", help="also plan for another version or engine, for example 0.27.1 or sglang"
    )
    parser.add_argument(
        "--measured",
        metavar="TOKENS:SECONDS",
        help="measured time to first token of one prompt on that server, for example 131072:3.1; "
        "the times of longer prompts are computed from this time",
    )
    parser.add_argument("--backend", help="without START: backend of the deployments to plan; default: vllm")
    parser.add_argument("--data", type=Path, action="append", default=[], help="folder with findings/ and deployments/")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(given: Namespace) -> int:
    """Print the requested plan. Return 0 whatever the plan says. Raises `UsageError`."""
    if given.start:
        _plan_starts(given)
    else:
        _plan_findings(given)
    return 0


def _secrets(words: list[str]) -> tuple[str, ...]:
    """Return the secret values in a typed command, in flags and in variables that it sets, which must not be printed."""
    pairs = (word.partition("=") for each in words for word in each.split())
    return secret_values({name: value for name, equals, value in pairs if equals and name[:1] != "-"}, words)


def _plan_starts(given: Namespace) -> None:
    from pytest_longctx.plan import typed  # noqa: PLC0415 - only what is asked for is imported
    from pytest_longctx.plan.planned_server import Given  # noqa: PLC0415

    if given.backend or given.data:
        raise UsageError("--backend and --data apply only to plans of findings; a command already names the engine")
    measured = typed.measured(given.measured) if given.measured else None
    options = typed.Options(given.hardware, given.host_memory, Given(given.model, given.engine_version), measured)
    secrets = _secrets(given.start)
    try:
        planned = typed.read(given.start, options)
    except LongctxError as problem:
        raise UsageError(shown(str(problem), secrets)) from None
    secrets = (*secrets, *(value for one in planned for value in secret_values(one.asked.secret_flags)))
    found_for = zip(planned, typed.answers(planned, options.measured), strict=True)
    if given.json:
        rows = [_as_json(one, found, given, options) for one, found in found_for]
        print(json.dumps(cleaned(rows, secrets), indent=1))
        return
    for index, (one, found) in enumerate(found_for):
        if index:
            print()
        if len(planned) > 1 and one.asked.start is not None:
            print(shown(f"{one.asked.start.where}:", secrets))
        print(shown("\n".join((*found.lines(), *_tables(one, found, given, options))), secrets))


def _tables(one: "Planned", found: "Answer", given: Namespace, options: "Options") -> Iterator[str]:
    from pytest_longctx.plan import boots, tables  # noqa: PLC0415

    if given.solve:
        yield from tables.solved_lines(tables.solve(one.asked, one.place), found.boot)
    if given.compare:
        other = boots.foresee(tables.other(one.asked, given.compare, options.given), one.place)
        yield from tables.compared_lines(found.boot, other)


def _as_json(one: "Planned", found: "Answer", given: Namespace, options: "Options") -> dict[str, Any]:
    from pytest_longctx.plan import boots, tables  # noqa: PLC0415

    made = found.as_json()
    if given.solve:
        made["solve"] = [row.as_json() for row in tables.solve(one.asked, one.place)]
    if given.compare:
        other = boots.foresee(tables.other(one.asked, given.compare, options.given), one.place)
        made["compare"] = tables.compared_json(other)
    return made


def _plan_findings(given: Namespace) -> None:
    from pytest_longctx import backends, paths  # noqa: PLC0415
    from pytest_longctx.backends import defaults  # noqa: PLC0415
    from pytest_longctx.deployments import deployment  # noqa: PLC0415
    from pytest_longctx.deployments.hardware import Hardware, Machine  # noqa: PLC0415
    from pytest_longctx.findings.finding import load_all as load_findings  # noqa: PLC0415
    from pytest_longctx.findings.scope import Conditions, match  # noqa: PLC0415
    from pytest_longctx.plan import runs  # noqa: PLC0415

    if given.hardware is None:
        raise UsageError("plan: the hardware is missing; add for example --hardware 8xH100 or --hardware 4x80GiB")
    for name in ("model", "engine_version", "solve", "compare"):
        if getattr(given, name):
            raise UsageError(
                f"--{name.replace('_', '-')} applies only to the plan of a command or a file; give a command or a file"
            )
    try:
        here = Hardware.machine(given.hardware)
    except ValueError as problem:
        raise UsageError(f"--hardware: {problem}") from None
    backend, folders = backends.named(given.backend or "vllm"), paths.data(given.data, "--data")
    known = deployment.load_all(tuple(folder / "deployments" for folder in folders))
    host_bytes = None if given.host_memory is None else given.host_memory * 1024**3
    machine = Machine(here, host_bytes=host_bytes)
    ours = [one for one in known.values() if one.backend == backend.name]
    chosen = [defaults.settle(one, backend, machine) for one in defaults.without_superseded(ours, here)]
    wanted = load_findings(tuple(folder / "findings" for folder in folders)).values()
    cases = match(wanted, chosen, lambda one, _: Conditions(one, here, None, one.max_model_len))
    made = runs.make(cases, chosen, backend, machine)
    if given.json:
        print(json.dumps(cleaned([row.as_json() for row in made.rows]), indent=1))
    else:
        print(shown("\n".join(_fitting_first(made))))


def _fitting_first(made: "Plan") -> Iterator[str]:
    """Yield the lines of a plan, fitting deployments first. Deployments out of scope are counted by reason."""
    from pytest_longctx.plan.runs import Plan  # noqa: PLC0415

    inside = [row for row in made.rows if not row.out_of_scope]
    fits = [row for row in inside if row.verdict.startswith("fits")]
    rest = [row for row in inside if row not in fits]
    *lines, _ = Plan(made.hardware, (*fits, *rest)).lines()
    yield from lines
    outside = [row.out_of_scope for row in made.rows if row.out_of_scope]
    for reason in dict.fromkeys(outside):
        yield f"out of scope: {outside.count(reason)} deployments: {reason}"
    yield list(made.lines())[-1]
