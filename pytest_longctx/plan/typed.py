"""``longctx plan`` of a command or of a file: from the words on the command line to answers."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pytest_longctx.backends.flags import human_int
from pytest_longctx.deployments import command, deployment, expected_times, manifests, recipes, roofline, script
from pytest_longctx.deployments.command import Start
from pytest_longctx.deployments.expected_times import Span
from pytest_longctx.deployments.shape import Shape
from pytest_longctx.errors import UsageError
from pytest_longctx.launchers.lint import lint
from pytest_longctx.launchers.start_command import StartCommand, of_command, of_pod
from pytest_longctx.launchers.start_command import of_deployment as start_of_deployment
from pytest_longctx.plan import answer, parallel, planned_server
from pytest_longctx.plan import boots as foreseen
from pytest_longctx.plan.answer import Answer
from pytest_longctx.plan.boots import Boot
from pytest_longctx.plan.place import Place
from pytest_longctx.plan.planned_server import Asked, Given, planned_range
from pytest_longctx.units import GiB

_FILES = (".yaml", ".yml", ".json", ".toml")
USUAL_BOOT_S = 600.0
"""Boot time of a large model: 572 s were logged for Scout on 8 x H200."""


@dataclass(frozen=True, slots=True)
class Options:
    """The options of ``longctx plan`` that concern a start command."""

    hardware: str | None = None
    host_gib: float | None = None
    given: Given = field(default_factory=Given)
    measured: tuple[int, float] | None = None
    """Tokens of a prompt, and the time to its first token in seconds."""


def measured(text: str) -> tuple[int, float]:
    """
    Read a ``--measured`` value such as ``131072:3.1``: tokens, in any notation that flags accept, and seconds. Raises
    `UsageError`.

    >>> measured("128K:3.1")
    (131072, 3.1)
    """
    tokens, colon, seconds = text.partition(":")
    try:
        found = human_int(tokens), float(seconds)
    except (ValueError, OverflowError):
        found = 0, 0.0
    if not colon or not 0 < found[0] < 2**40 or not 0 < found[1] < 1e9:
        raise UsageError(
            f"--measured {text}: must be the length of a prompt in tokens and its time in seconds, for example 131072:3.1"
        )
    return found


@dataclass(frozen=True, slots=True)
class Planned:
    """One server to plan, and its devices."""

    asked: Asked
    place: Place
    start: StartCommand | None = None
    """The same start command, as the lints read it."""


def read(words: Sequence[str], options: Options) -> list[Planned]:
    """
    Return the servers that *words* start: a command, or the name of one file that starts servers.

    Raises `UsageError` if no start command is found, or if the hardware is unknown.
    """
    path = Path(words[0])
    if len(words) == 1 and ((path.suffix in _FILES and " " not in words[0]) or _is_file(path)):
        return list(_of_file(path, options))
    # One word with spaces is a whole command in quotes.
    split = script.split(words[0]) if len(words) == 1 else words
    return [_of_start(start, options) for start in command.starts(split)]


def _is_file(path: Path) -> bool:
    """Return whether *path* is a file. The word may be a whole command, longer than any file name."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _of_file(path: Path, options: Options) -> Iterator[Planned]:
    if path.suffix == ".toml":
        yield _of_deployment(path, options)
        return
    found = manifests.read(path)
    if any(recipes.is_recipe(each) for each in found):
        place = _place(options, None, f"{path}: ")
        for recipe in (each for each in found if recipes.is_recipe(each)):
            for start in recipes.starts(recipe, place.hardware, place.device_bytes / 1e9, str(path)):
                yield _of_recipe(start, options)
        return
    many = manifests.starts(found, str(path))
    if not many:
        form = manifests.form(found)
        raise UsageError(
            f"{path}: {f'the plan does not read {form}' if form else 'it does not start vLLM or SGLang'}\n"
            "  known    a compose file, a Pod or any object that holds one, a task of SkyPilot, a recipe of vLLM,\n"
            "           a deployment in TOML\n"
            "  try      longctx plan --hardware HARDWARE -- COMMAND"
        )
    for start in many:
        try:
            yield _of_start(start, options)
        except UsageError as problem:
            if len(many) == 1 or options.hardware is None:
                raise
            # One server that cannot be read is said so; its neighbours are planned.
            yield Planned(planned_server.unread(start, str(problem)), _place(options, None, ""))


def _of_deployment(path: Path, options: Options) -> Planned:
    one = deployment.load(path)
    made = planned_server.of_deployment(one, options.given, path.resolve().parent)
    place, limit_gib = _place(options, one.hardware, f"{path}: "), one.docker.memory_gib
    if limit_gib is not None and (place.host_bytes is None or limit_gib * GiB < place.host_bytes):
        place = replace(place, host_bytes=limit_gib * GiB)
    return Planned(made, place, start_of_deployment(one, made.engine))


def _of_start(start: Start, options: Options) -> Planned:
    made = planned_server.of_start(start, options.given)
    place = _place(options, _said(start), f"{start.where}: ")
    nnodes = made.flags.get("nnodes", 1)
    limit, nodes = start.memory_bytes, max(start.nodes, nnodes if isinstance(nnodes, int) else 1)
    place = replace(place, hosts=nodes, host_bytes=place.host_bytes and place.host_bytes * nodes)
    if limit is not None and (place.host_bytes is None or limit * nodes < place.host_bytes):
        place = replace(place, host_bytes=limit * nodes)
    return Planned(made, _given(place, start), _for_lints(start, made))


_BITS = {
    "fp8": 8,
    "int8": 8,
    "mxfp8": 8.25,
    "nvfp4": 4.5,
    "mxfp4": 4.25,
    "fp4": 4.5,
    "int4": 4.25,
    "awq": 4.25,
    "gptq": 4.25,
}
"""Bits of a stored parameter with its scales, by the precision that a recipe names."""


def _of_recipe(start: Start, options: Options) -> Planned:
    """Plan one variant of a recipe, with weights as in the recipe if config.json does not say."""
    since, precision = start.raw["since"], str(start.raw["precision"] or "").lower()
    made = _of_start(replace(start, raw=None), options)
    notes = [f"the recipe needs {made.asked.engine} {since} or newer"] if since else []
    bits = _BITS.get(precision)
    if bits and isinstance(made.asked.config, dict) and not made.asked.config.get("quantization_config"):
        notes.append(
            f"weights of {bits:g} bits, as the recipe says ({precision}); config.json has no quantization_config"
        )
        made = replace(made, asked=replace(made.asked, weight_bits=bits))
    return replace(made, asked=replace(made.asked, notes=(*made.asked.notes, *notes)))


def _given(place: Place, start: Start) -> Place:
    """Return the *place* of a start command, with no more devices than its container gets."""
    visible = start.env.get("CUDA_VISIBLE_DEVICES", start.env.get("HIP_VISIBLE_DEVICES", ""))
    ids = [each for each in visible.split(",") if each.strip() and "$" not in visible and visible.lower() != "all"]
    counts = [*([start.gpus * start.nodes] if start.gpus else []), *([len(ids)] if ids else [])]
    fewest = min([place.hardware.count, *counts])
    return replace(place, hardware=replace(place.hardware, count=fewest))


_PRODUCTS = (
    "GB300",
    "GB200",
    "GH200",
    "B300",
    "B200",
    "H200",
    "H100",
    "H20",
    "A100",
    "L40S",
    "MI300X",
    "MI325X",
    "MI355X",
)


def _said(start: Start) -> str | None:
    """Return the hardware in a Pod's node selector; None if the Pod names none."""
    if start.kind is None or start.gpus is None:
        return None
    upper = start.kind.upper()
    kind = next((each for each in _PRODUCTS if each in upper), None)
    return f"{start.gpus * start.nodes}x{kind}" if kind else None


def _place(options: Options, said: str | None, where: str) -> Place:
    wanted = options.hardware or said
    if wanted is None:
        raise UsageError(f"{where}no hardware is named; add for example --hardware 8xH100 or --hardware 4x80GiB")
    return Place.parse(wanted, None if options.host_gib is None else options.host_gib * GiB)


def _for_lints(start: Start, made: Asked) -> StartCommand:
    version = planned_range(made.version)
    if isinstance(start.raw, str):
        found = of_command(start.raw)
    elif isinstance(start.raw, dict) and "spec" in start.raw:
        found = of_pod(json.dumps(start.raw, default=str))
    else:
        found = StartCommand(
            image=start.image,
            command=start.words,
            env=start.env,
            in_container=start.in_container,
        )
    has_shm, workers = (start.shm_bytes or 0) >= GiB, parallel.of_flags(made.engine, made.flags).devices
    return replace(found, engine=start.engine, version=version, has_shm=has_shm, workers=max(1, workers // start.nodes))


def answers(planned: Iterable[Planned], seen: tuple[int, float] | None = None) -> Iterator[Answer]:
    """Return the plan's answer for each start of *planned*. *seen* has the tokens and seconds of a measured prompt."""
    for each in planned:
        boot = foreseen.foresee(each.asked, each.place)
        found = tuple(f"{name}: {what}" for name, what in lint(each.start)) if each.start else ()
        known = {problem.word for problem in each.asked.problems}
        kept = tuple(line for line in found if not (line.startswith("unknown-flag") and known))
        spans = _spans(boot, *seen) if seen else ()
        yield answer.of(boot, kept, None if boot.refusals else _boot_s(each), _prefill_s(boot), spans)


def _boot_s(each: Planned) -> float | None:
    one = each.asked.deployment
    if one is not None and one.timeouts.usual_boot_s is not None:
        return one.timeouts.usual_boot_s
    return USUAL_BOOT_S if each.place.hardware.device_gib else None


_LONG_TOKENS = (1_000_000, 10_000_000)
"""Lengths at which a time is said beside the planned one, where that is longer."""


def _spans(boot: Boot, tokens: int, seconds: float) -> tuple[tuple[int, Span], ...]:
    """
    Return the times of prompts of the planned length and of one and ten million tokens, derived from the measured
    prompt (``--measured``).
    """
    found = foreseen.shape_of(boot.asked)
    if not isinstance(found, Shape) or not boot.length:
        return ()
    used = replace(boot.place.hardware, count=boot.spread.tensor * boot.spread.pipeline)
    lengths = [*(each for each in _LONG_TOKENS if tokens < each < boot.length), boot.length]
    return tuple((each, expected_times.from_measured(found, tokens, seconds, each, used)) for each in lengths)


def _prefill_s(boot: Boot) -> float | None:
    """
    Return the time to prefill one prompt of the planned length; None if the peak of the devices or the shape is
    unknown.
    """
    found = foreseen.shape_of(boot.asked)
    if not isinstance(found, Shape) or not boot.length or not boot.serves:
        return None
    used = replace(boot.place.hardware, count=boot.spread.tensor * boot.spread.pipeline)
    floor_s = roofline.prefill_floor_s(found, boot.length, used)
    return None if floor_s is None else floor_s / roofline.USUAL_UTILISATION
