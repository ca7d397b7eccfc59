"""The predicted boot of a server: its refusals, its memory on devices and hosts, and what is not modelled."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pytest_longctx import backends
from pytest_longctx.backends import Backend, context_length
from pytest_longctx.backends.vllm import speculative
from pytest_longctx.deployments import models, shape
from pytest_longctx.deployments.capacity import Prediction
from pytest_longctx.deployments.deployment import Deployment, FlagValue
from pytest_longctx.deployments.hardware import KINDS
from pytest_longctx.deployments.models import Beyond
from pytest_longctx.deployments.shape import Shape
from pytest_longctx.plan import host_memory, parallel, refusals, uncounted
from pytest_longctx.plan.parallel import Spread
from pytest_longctx.plan.place import Place
from pytest_longctx.plan.planned_server import Asked, cached, model_for, planned_range, within
from pytest_longctx.plan.refusals import Facts, Refusal
from pytest_longctx.shapes import ModelShape, NotUnderstood


class _Looked(dict[str, FlagValue]):
    """Flags that remember which of them were read."""

    def __init__(self, flags: Mapping[str, FlagValue]) -> None:
        super().__init__(flags)
        self.at: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.at.add(key)
        return super().get(key, default)

    def __getitem__(self, key: str) -> FlagValue:
        self.at.add(key)
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        self.at.add(str(key))
        return super().__contains__(key)


@dataclass(frozen=True)
class Boot:
    """The predicted boot of one server."""

    asked: Asked
    place: Place
    spread: Spread
    length: int | None
    """The longest planned request in tokens; None if unknown."""
    length_said: str
    """The source of that length."""
    whole: ModelShape | None = None
    refusals: tuple[Refusal, ...] = ()
    prediction: Prediction | None = None
    pool_tokens: int | None = None
    """Tokens in the pool of one rank, if the engine derives the number of requests from it (SGLang)."""
    unpredicted: str = ""
    """The reason why there is no prediction."""
    unmodelled: tuple[str, ...] = field(default=())
    """Flags that affect memory and that the predictor does not read."""

    @property
    def serves(self) -> bool:
        """Whether the server is predicted to boot and to hold one request of the planned length."""
        return not self.refusals and self.holds

    @property
    def sure(self) -> bool:
        """Whether the server is predicted to serve, without doubt."""
        return self.serves and self.prediction is not None and not self.prediction.doubt

    @property
    def holds(self) -> bool:
        """Whether the predicted memory holds one request of the planned length."""
        found = self.prediction
        return found is not None and found.fits and found.longest_tokens >= (found.advertised_tokens or 0)

    @property
    def requests(self) -> float | None:
        """Number of concurrent requests of the planned length, on all data-parallel ranks together; None if unknown."""
        found = self.prediction
        if found is None or not self.length:
            return None
        tokens = self.pool_tokens
        each = found.concurrency if tokens is None else tokens / self.length
        return None if each is None else each * self.spread.data

    @property
    def longest(self) -> int | None:
        """Longest request in tokens that the predicted memory holds, even if the model allows less; None if unknown."""
        if self.prediction is None:
            return None
        return self.prediction.longest_tokens if self.pool_tokens is None else max(0, self.pool_tokens - 7)


def foresee(asked: Asked, place: Place) -> Boot:
    """Predict the boot of *asked* at *place*: its refusals, its memory, and what is not modelled."""
    if asked.foreign:
        return Boot(asked, place, Spread(), None, "not read", unpredicted=asked.foreign)
    found = shape_of(asked)
    spread = parallel.of_flags(asked.engine, asked.flags)
    whole = found.whole if isinstance(found, Shape | Beyond) else None
    longest = _longest(asked, found)
    facts = Facts(whole, asked.config, longest, spread, place.hardware.kind, place.hardware.count)
    refused = tuple(refusals.find(asked, facts))
    length, said = _length(asked, longest)
    made = Boot(asked, place, spread, length, said, whole, refused)
    if any(each.name == "bad-value" for each in refused):
        return replace(made, unpredicted="its flags have no meaning")
    if isinstance(found, Shape):
        try:
            return _predicted(made, found)
        except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as problem:
            # A combination that no check has foreseen; one server is not planned, its neighbours are.
            return replace(made, unpredicted=f"it could not be computed ({type(problem).__name__}: {problem})"[:300])
    return replace(made, unpredicted=_why_unknown(asked, found))


def _why_unknown(asked: Asked, found: object) -> str:
    if found is None:
        return (
            f"the shape of {asked.model or 'the model'} is not known: there is no config.json at hand; "
            "give --model FOLDER or --model config.json"
        )
    if isinstance(found, Beyond):
        return f"the memory of {asked.engine} for {found.whole.model_type} is not modelled: {found.why}"
    return str(found)


def shape_of(asked: Asked) -> Shape | Beyond | NotUnderstood | None:
    """Return the model shape for the prediction of a boot; None if the model has no config.json."""
    if asked.config is not None:
        if "shape" not in asked.memory:
            asked.memory["shape"] = models.from_json(asked.config, asked.quantised)
        found: Shape | Beyond | NotUnderstood = asked.memory["shape"]
        return replace(found, draft=_draft_of(asked)) if isinstance(found, Shape) else found
    return shape.known()[asked.known] if asked.known else None


def _draft_of(asked: Asked) -> ModelShape | None:
    """Return the shape of the draft model in the flags; None if there is none, or if its config.json is not available."""
    name = speculative.config(asked.flags).get("model") if asked.engine == "vllm" else None
    if not isinstance(name, str):
        return None
    if "draft" not in asked.memory:
        path = next((path for place in (name, *cached(name)) if (path := models.config_of(place)).is_file()), None)
        read_one = models.from_json(models.read_json(path)) if path is not None else None
        asked.memory["draft"] = read_one.whole if isinstance(read_one, Shape) else None
    found: ModelShape | None = asked.memory["draft"]
    return found


def _longest(asked: Asked, found: object) -> int | None:
    """Return the longest context that the engine derives at boot; None if the shape only stands for the sizes of a model."""
    if asked.deployment is not None and asked.known:
        return None
    positions = getattr(found, "rope_positions", 0) or getattr(getattr(found, "whole", None), "rope_positions", 0)
    if isinstance(asked.config, Mapping):
        included = within(asked.version, context_length.YARN_IS_INCLUDED)
        return context_length.derived(asked.engine, asked.config, positions, yarn_included=included)
    return positions or None


def _length(asked: Asked, longest: int | None) -> tuple[int | None, str]:
    given = asked.length
    if given is not None and given > 0:
        return given, "as asked"
    if longest is None and asked.known:
        longest = shape.known()[asked.known].rope_positions or None
    if longest is None and asked.engine == "vllm" and isinstance(asked.config, Mapping):
        return context_length.ASSUMED_BY_VLLM, "assumed by vLLM, because config.json has none"
    if longest is None:
        return None, "not given, and config.json has none"
    usual = (
        context_length.by_default(asked.engine, asked.config, longest) if isinstance(asked.config, Mapping) else longest
    )
    return usual, "auto" if given == -1 else "the model's own"


def backend_for(asked: Asked, place: Place) -> Backend:
    """Return the backend that predicts the boot of *asked* at *place*."""
    if asked.deployment is not None:
        return backends.named(asked.deployment.backend)
    kind = place.hardware.kind
    if asked.engine == "vllm":
        begins = {"MI": "vllm-rocm", "trn": "vllm-neuron", "cpu": "vllm-cpu"}
        return backends.named(next((name for start, name in begins.items() if kind.startswith(start)), "vllm"))
    return backends.named(asked.engine)


def _predicted(made: Boot, found: Shape) -> Boot:
    """Return the boot *made* with the prediction of its memory, for one data-parallel rank."""
    asked, backend = made.asked, backend_for(made.asked, made.place)
    flags = parallel.without(asked.engine, asked.flags, made.spread)
    flags.pop(asked.length_flag, None)
    if (made.whole is None or made.whole.window) and refusals.without_hybrid(asked):
        flags["disable-hybrid-kv-cache-manager"] = True
    one = _deployment(made, backend, flags)
    if why := backend.unmodelled(_plain(one, backend), found):
        return _left_out(made, why)
    part = parallel.held(found, asked.engine, made.spread, asked.memory.setdefault("held", {}))
    looked = _Looked(flags)
    prediction = backend.predict(one.model_copy(update={"flags": looked}), part, made.place.device_bytes or None)
    if prediction is None:
        return replace(made, unpredicted=_why_not(made, backend))
    if made.length_said == "auto" and prediction.outcome == "refuses" and prediction.longest_tokens:
        shorter = replace(made, length=prediction.longest_tokens, length_said=_CUT)
        return _predicted(shorter, found)
    if made.length_said.startswith(_CUT) and prediction.doubt:
        # The engine takes what is there; the doubt is how much that is.
        made = replace(made, length_said=f"{_CUT}, at a guess")
        prediction = replace(prediction, doubt="")
    missed = (
        uncounted.architecture(asked, made.whole, made.place.hardware.kind),
        uncounted.named_otherwise(asked),
        *_missed(asked, looked.at | _TAKEN[asked.engine], backend, part, made, prediction),
    )
    missed = (*missed, *uncounted.variables(asked), *uncounted.graphs(asked), *refusals.missed_connectors(asked))
    made = replace(made, unmodelled=tuple(filter(None, missed)))
    prediction = uncounted.doubted(asked.engine, made.unmodelled, prediction)
    made = replace(made, pool_tokens=_pool_tokens(asked, one, backend, part, made.place))
    prediction = host_memory.with_hosts(asked, made.spread, prediction)
    refused = host_memory.hierarchical_cache(asked, made.spread, prediction, made.place.host_bytes)
    made = replace(made, refusals=(*made.refusals, *([refused] if refused else [])))
    return replace(made, prediction=prediction if refused else prediction.on_host(made.place.host_bytes))


_CUT = "auto: the longest that fits"
_ANY_CONTEXT = 2**26
"""A context in tokens that is longer than any pool. The tables for one request still fit beside the pool."""


def _pool_tokens(asked: Asked, one: Deployment, backend: Backend, part: Shape, place: Place) -> int | None:
    """
    Return the number of tokens in SGLang's pool, from the longest request and the 7 tokens that SGLang reserves; None
    if unknown.
    """
    if asked.engine != "sglang":
        return None
    flags = {**one.flags, "max-running-requests": 1}
    other = one.model_copy(update={"max_model_len": _ANY_CONTEXT, "flags": flags})
    try:
        found = backend.predict(other, part, place.device_bytes or None)
    except RecursionError:  # a pool that leaves nothing beside it
        return None
    return None if found is None or not found.longest_tokens else found.longest_tokens + 7


_TAKEN = {
    "vllm": frozenset({"data-parallel-size", "enable-expert-parallel"}),
    "sglang": frozenset({"dp-size", "ep-size"}),
}
"""Flags that are looked at here, before the predictor."""


def _why_not(made: Boot, backend: Backend) -> str:
    """Explain why a backend predicts no boot although the model's shape is known."""
    hardware = made.place.hardware
    if not made.length:
        return "the longest request of the model is not known; give the context length"
    if backend.on_cpu:
        return "the memory of a CPU server follows from VLLM_CPU_KVCACHE_SPACE, which is not set"
    if not made.place.device_bytes:
        return (
            f"the memory of one {hardware.kind} is not known here; give its size as PyTorch sees it, as in "
            f"--hardware {hardware.count}x80GiB"
        )
    return f"the memory of {backend.name} is not modelled"


def _left_out(made: Boot, why: str) -> Boot:
    """Return the boot *made* without a prediction, because of *why*: a refusal, or a feature that is not modelled."""
    if not why.startswith("refuses: "):
        return replace(made, unpredicted=why)
    if any(each.name == "context-not-derived" for each in made.refusals):
        return made
    return replace(made, refusals=(*made.refusals, Refusal("config", "config", why.removeprefix("refuses: "))))


def _deployment(made: Boot, backend: Backend, flags: Mapping[str, FlagValue]) -> Deployment:
    asked, hardware = made.asked, made.place.hardware
    model = model_for(asked)
    if asked.flags.get("quantization") == "fp8" and not uncounted.quantised(asked):
        model = model.model_copy(update={"weight_bits": 8.0})
    return Deployment.model_construct(
        name="asked",
        title="",
        backend=backend.name,
        model=model,
        version=planned_range(asked.version),
        hardware=str(hardware) if hardware.kind in KINDS else None,  # engines choose by the device's name, too
        max_model_len=made.length,
        flags=dict(flags),
        env={str(name): str(value) for name, value in asked.env.items()},
    )


def _plain(one: Deployment, backend: Backend) -> Deployment:
    """Return the deployment *one* without a context length, and without the flags that its backend does not model."""
    left = {name: value for name, value in one.flags.items() if name not in backend.unmodelled_flags}
    return one.model_copy(update={"flags": left, "max_model_len": None})


def _missed(
    asked: Asked, looked: set[str] | frozenset[str], backend: Backend, part: Shape, made: Boot, seen: Prediction
) -> Iterator[str]:
    """Flags that the memory predictor did not read, or whose value it treats as the default."""
    unsized = backend.unsized(_deployment(made, backend, asked.flags), part)
    for name, row in uncounted.memory_flags(asked.engine).items():
        if name not in asked.flags or asked.flags[name] in row.get("off", [None]):
            continue
        if name == "quantization" and (uncounted.quantised(asked) or asked.flags[name] == "fp8"):
            continue  # the config says how, or every value is counted as one byte
        if (
            name not in looked
            or name in unsized
            or (name == "kv-cache-dtype" and _as_auto(asked, backend, part, made, seen))
        ):
            value = asked.flags[name]
            shown = f"--{name}" if value is True else f"--{name} {value}" if len(str(value)) < 40 else f"--{name}"
            yield f"{shown}: {row['does']}"


def _as_auto(asked: Asked, backend: Backend, part: Shape, made: Boot, seen: Prediction) -> bool:
    """
    Return whether the memory predictor gives the same result for this dtype of the KV cache and for ``auto``, the
    model's dtype.
    """
    flags = {name: value for name, value in asked.flags.items() if name not in ("kv-cache-dtype", asked.length_flag)}
    one = _deployment(made, backend, parallel.without(asked.engine, flags, made.spread))
    other = backend.predict(one, part, made.place.device_bytes or None)
    return other is not None and other.longest_tokens == seen.longest_tokens
