"""The server to plan: a start command or a deployment, read by the flags of its engine version."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from packaging.version import Version

from pytest_longctx.backends import flags, versions
from pytest_longctx.backends.flags import Problem, ReadFlags
from pytest_longctx.backends.versions import EngineVersion
from pytest_longctx.deployments import manifests, models, shape
from pytest_longctx.deployments.command import Start
from pytest_longctx.deployments.deployment import FASTEST, Deployment, FlagValue, Model
from pytest_longctx.errors import UsageError
from pytest_longctx.toml import in_range, overlap

_LENGTH = {"vllm": "max-model-len", "sglang": "context-length"}
_MODEL = {"vllm": "model", "sglang": "model-path"}
_OVERRIDES = {"vllm": "hf-overrides", "sglang": "json-model-override-args"}
_FOREIGN = {"--omni": "vLLM-Omni has a command line and a memory of its own, which are not modelled"}
"""Flags that select another engine behind the same program."""
_TUNED = ("-instruct", "-chat", "-it", "-hf", "-instruct-hf", "-17b-16e", "-17b-16e-instruct")
"""Endings of model names that do not change the shape."""


NEWEST = "the newest recorded"
"""The source of a version that is planned because none was named."""


@dataclass(frozen=True)
class Asked:
    """One server to plan, with canonical flags."""

    engine: str
    version: str
    """The planned version."""
    said: str
    """The source of that version."""
    row: EngineVersion
    """The recorded version whose parser has read the flags."""
    model: str
    """The model as the command names it."""
    flags: Mapping[str, FlagValue]
    problems: tuple[Problem, ...] = ()
    config: Any = None
    """The content of config.json with the command's overrides; or `NotUnderstood`; None if there is no config.json."""
    quantised: Any = None
    known: str | None = None
    """The shipped shape for this name, if there is no config.json."""
    weight_bits: float = 16
    start: Start | None = None
    deployment: Deployment | None = None
    folder: Path = Path()
    """Folder of the deployment's file."""
    foreign: str = ""
    """The reason why the flags cannot be planned: another engine's flags, or variables. Empty if they can be planned."""
    notes: tuple[str, ...] = ()
    memory: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """Cache of the values read from the config, shared by copies with other flags."""

    @property
    def length(self) -> int | None:
        """
        Longest request in tokens by the flags of the server; None if the flags do not set it; -1 for the longest that
        fits.
        """
        value = self.flags.get(_LENGTH[self.engine])
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def of(self, **changes: FlagValue | None) -> "Asked":
        """Return this server with other flags. *changes* has underscores for dashes; None removes a flag."""
        named = {name.replace("_", "-"): value for name, value in changes.items()}
        merged = {**self.flags, **named}
        return replace(self, flags={name: value for name, value in merged.items() if value is not None})

    @property
    def secret_flags(self) -> Mapping[str, str]:
        """Flags and environment variables of the server, for `pytest_longctx.redaction.secret_values`."""
        texts = {name.replace("-", "_"): value for name, value in self.flags.items() if isinstance(value, str)}
        return {**self.env, **texts}  # a number, as of max-num-batched-tokens, is no secret

    @property
    def length_flag(self) -> str:
        """The engine's flag for the longest request: ``max-model-len`` or ``context-length``."""
        return _LENGTH[self.engine]

    @property
    def env(self) -> Mapping[str, str]:
        """Environment variables of the server."""
        return self.deployment.env if self.deployment else self.start.env if self.start else {}


@dataclass(frozen=True, slots=True)
class Given:
    """Options of ``longctx plan`` that complete a start command."""

    model: Path | None = None
    """Folder with a config.json, or that file."""
    version: str | None = None
    """Version of the engine; None: the version of the image, or the newest recorded version if the image has none."""


def of_start(start: Start, given: Given) -> Asked:
    """Return the server of *start*, read by the flags of its engine version. Raises `UsageError` for unreadable files."""
    row, version, said = _version(start.engine, given.version or start.version, given)
    row, read, note = _read_between(row, version, start)
    named = read.flags.get(_MODEL[start.engine])
    word = read.words[0] if start.engine == "vllm" and read.words else None
    model = str(word if word is not None else named or "")
    extra = [each for each in read.words[bool(word) :] if each != ";"]
    strays = tuple(Problem(each, f"{each!r} is not a flag, and no flag takes it as a value") for each in extra)
    made = Asked(
        start.engine,
        version,
        said,
        row,
        model,
        read.flags,
        (*read.problems, *strays),
        start=start,
        foreign=next((why for word, why in _FOREIGN.items() if word in start.words), "")
        or _overlooked(start)
        or _left_open(read),
        notes=(note,) if note else (),
    )
    return _with_model(made, given, read)


def unread(start: Start, problem: str) -> Asked:
    """Return a server that cannot be planned because its *start* could not be read, with *problem* as the reason."""
    row = versions.recorded(start.engine)[-1]
    return Asked(start.engine, row.version, "not read", row, "", {}, start=start, foreign=" ".join(problem.split()))


def of_deployment(one: Deployment, given: Given, folder: Path) -> Asked:
    """
    Return the server of the deployment *one*, whose file is in *folder*. Raises `UsageError` for a backend without
    recorded versions.
    """
    engine = "sglang" if one.backend.startswith("sglang") else one.backend.partition("-")[0]
    if engine not in _LENGTH:
        raise UsageError(
            f"{one.name}: only a start of vLLM or SGLang can be planned; the backend of this deployment is {one.backend}\n"
            "  try      longctx plan --hardware HARDWARE --backend BACKEND, which plans what its findings need"
        )
    given_flags = {name: value for name, value in one.flags.items() if value != FASTEST}  # left to the machine
    if given.version:
        row, version, said = _version(engine, given.version, given)
    else:
        row, version, said = _of_range(engine, one.version, given_flags)
    read = flags.of_table(row, given_flags)
    if one.max_model_len is not None:
        read.flags[_LENGTH[engine]] = one.max_model_len
    named = one.model.path or one.model.id or one.model.name
    made = Asked(
        engine,
        version,
        said,
        row,
        named,
        read.flags,
        tuple(read.problems),
        weight_bits=one.model.weight_bits,
        deployment=one,
        folder=folder,
    )
    if given.model is None:
        if one.model.make in models.MADE_CONFIGS:
            return _overridden(replace(made, config=dict(models.MADE_CONFIGS[one.model.make])), read)
        if one.model.shape is not None:
            return replace(made, known=one.model.shape)
    at = None if one.model.path is None else _found_at(one.model.path, folder)
    return _with_model(made, replace(given, model=given.model or at), read)


_IDLE = ("port", "rank", "seed", "timeout", "interval", "address", "log")
"""Parts of the names of flags that do not affect memory."""


def _left_open(read: ReadFlags) -> str:
    """Return a message about a flag whose value is an unset variable; empty if memory does not depend on such a flag."""
    names = [name for name in read.variables if not any(part in name for part in _IDLE)]
    if not names:
        return ""
    return f"--{names[0]} has the value of {read.variables[names[0]]}, which the command does not set; write a value"


def _found_at(path: str, folder: Path) -> Path:
    """
    Return the model folder of a deployment: *path* relative to the working folder, to the file's folder, or to the
    folder above that.
    """
    given = Path(path).expanduser()
    places = [given] if given.is_absolute() else [given, folder / given, folder.parent / given]
    return next((place for place in places if models.config_of(str(place)).is_file()), given)


def _version(engine: str, wanted: str | None, given: Given) -> tuple[EngineVersion, str, str]:
    """Return the recorded version whose parser reads the flags, the version to plan, and the source of that version."""
    every = versions.recorded(engine)
    if wanted is None:
        return every[-1], every[-1].version, NEWEST
    try:
        asked = Version(wanted)
    except ValueError:
        raise UsageError(
            f"--engine-version: {wanted!r} must be a version; recorded versions: {', '.join(each.version for each in every)}"
        ) from None
    row = next((each for each in reversed(every) if Version(each.version) <= asked), every[0])
    said = "as asked" if given.version else "as the image says"
    return row, wanted, said if row.version == wanted else f"{said}; its flags are read as those of {row.version}"


def _read_between(row: EngineVersion, version: str, start: Start) -> tuple[EngineVersion, ReadFlags, str]:
    """
    Return the flags of *start*, with the version that reads them. If *version* is not recorded, use the adjacent
    recorded version that accepts more of these flags.

    A flag that only one adjacent version has may exist in *version*. A flag that the oldest recorded version lacks may exist
    in an older one. Such flags are no refusals; a note lists the flags that were not read.
    """
    read = _with_config_file(row, start)
    if row.version == version or not read.problems:
        return row, read, ""
    later = next((each for each in versions.recorded(row.engine) if Version(each.version) > Version(version)), None)
    other = read if later is None else _with_config_file(later, start)
    best, rest = (other, read) if len(other.problems) < len(read.problems) else (read, other)
    oldest = Version(version) < Version(versions.recorded(row.engine)[0].version)
    there = {each.word for each in rest.problems}
    left = [each for each in best.problems if each.unknown and (oldest or each.word not in there)]
    kept = replace(best, problems=[each for each in best.problems if each not in left])
    words = ", ".join(each.word for each in left)
    note = f"not read: {words}; the flags of {start.engine} {version} are not recorded" if left else ""
    return best.engine, kept, note


def _of_range(engine: str, wanted: str | None, table: Mapping[str, FlagValue]) -> tuple[EngineVersion, str, str]:
    """
    Return the newest recorded version in the range *wanted* that has every flag of *table*; without a recorded version
    in the range, the oldest later one.
    """
    every = versions.recorded(engine)
    if inside := versions.meant(engine, wanted):
        said = NEWEST + (f" in {wanted}" if wanted else "")
        fitting = next((each for each in reversed(inside) if not flags.of_table(each, table).problems), inside[-1])
        return fitting, fitting.version, said if fitting is inside[-1] else f"{said} that has every flag"
    row = next((each for each in every if overlap(f"<={each.version}", wanted)), every[-1])
    return row, f"{wanted}", f"none in {wanted} is recorded; its flags are read as those of {row.version}"


def _with_config_file(row: EngineVersion, start: Start) -> ReadFlags:
    """Return the flags of *start*, with the flags of its ``--config`` file before them."""
    read = flags.read(row, start.words)
    place = read.flags.get("config")
    if not isinstance(place, str) or not place or _overlooked(start):
        return read
    content = next(iter(manifests.read(Path(place).expanduser())), None)
    if not isinstance(content, Mapping):
        raise UsageError(f"--config {place}: the file must map names of flags to values")
    words = list(start.words)
    cut = 1 if start.engine == "vllm" and words and not words[0].startswith("-") else 0
    return flags.read(row, [*words[:cut], *flags.words_of_config(content), *words[cut:]])


def _overlooked(start: Start) -> str:
    """Return why the file of flags of *start* is not read: both engines look for ``--config`` as a separate word."""
    joined = next((word for word in start.words if word.startswith("--config=")), None)
    if joined is None or "--config" in start.words:
        return ""
    return f"{start.engine} overlooks {joined}: it reads a file of flags only where --config is a word of its own"


def _with_model(made: Asked, given: Given, read: ReadFlags) -> Asked:
    """
    Return the server *made* with the config of its model: from ``--model``, the model's folder, the local cache, or a
    shipped shape.
    """
    places = [str(given.model)] if given.model else [made.model, *cached(made.model)] if made.model else []
    for place in places:
        path = models.config_of(place)
        if path.is_file():
            beside = path.with_name("hf_quant_config.json")
            quantised = models.read_json(beside) if beside.is_file() else None
            return _overridden(replace(made, config=models.read_json(path), quantised=quantised), read)
    if given.model is not None and made.deployment is None:
        raise UsageError(f"--model {given.model}: must be a config.json or a folder that contains one")
    return replace(made, known=_shipped(made.model))


def cached(model: str) -> list[str]:
    """Return the folders of *model* in the Hugging Face cache, the newest first."""
    hub = os.environ.get("HF_HUB_CACHE") or f"{os.environ.get('HF_HOME', '~/.cache/huggingface')}/hub"
    folder = Path(hub).expanduser() / f"models--{model.replace('/', '--')}" / "snapshots"
    if "/" not in model or not folder.is_dir():
        return []
    return [str(each) for each in sorted(folder.iterdir(), key=lambda each: each.stat().st_mtime, reverse=True)]


def _shipped(model: str) -> str | None:
    """
    Return the shipped shape for the name *model*, of any publisher; None for a name that may have another shape.

    >>> _shipped("meta-llama/Llama-4-Scout-17B-16E-Instruct"), _shipped("Qwen/Qwen3-32B-FP8")
    ('llama-4-scout', None)
    """
    name = model.rpartition("/")[2].lower()
    ends = ("", *_TUNED)
    return next((each for each in shape.known() if name in {f"{each}{end}" for end in ends}), None)


def _overridden(made: Asked, read: ReadFlags) -> Asked:
    """Return the server *made* with the keys of config.json that its command overrides (``--hf-overrides``)."""
    table = read.table(_OVERRIDES[made.engine])
    if not table or not isinstance(made.config, Mapping):
        return made
    return replace(made, config=_merged(made.config, table))


def _merged(config: Mapping[str, Any], table: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return the model's *config* with the overrides in *table*: nested tables are merged, tables of positions are
    replaced.
    """
    whole = dict(config)
    for name, value in table.items():
        old = whole.get(name)
        inner = isinstance(old, Mapping) and isinstance(value, Mapping) and not name.startswith("rope")
        whole[name] = _merged(old, value) if inner and isinstance(old, Mapping) else value
    text = whole.get("text_config")
    if isinstance(text, Mapping):  # overrides of a multimodal model reach its text part where they name its keys
        whole["text_config"] = {**text, **{name: value for name, value in table.items() if name in text}}
    return whole


def planned_range(version: str) -> str:
    """Return the version range of a deployment for a planned *version*. A range is returned unchanged."""
    return version if version[:1] in "<>=~!" else f"=={version}"


def has_flag(row: EngineVersion, name: str) -> bool:
    """Return whether the recorded version *row* has the flag *name*."""
    return name in row.command_line["flags"]


def within(version: str, wanted: str) -> bool:
    """Return whether *version*, which may be a range, may be in the range *wanted*."""
    return overlap(version, wanted) if version[:1] in "<>=~!" else in_range(version, wanted)


def model_for(asked: Asked) -> Model:
    """Return the model as the `Model` of a deployment. The caller passes its shape separately."""
    name = asked.model.rstrip("/").rpartition("/")[2] or "unnamed"
    return Model(name=name, shape=asked.known, weight_bits=asked.weight_bits)
