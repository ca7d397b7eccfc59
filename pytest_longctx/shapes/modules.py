"""Names of modules in a quantised checkpoint, in their various spellings, and lists of such names."""

import fnmatch
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

import re2

PREFIXES = (
    "model.",
    "",
    "model.language_model.",
    "language_model.model.",
    "backbone.",
    "language_model.",
    "transformer.",
)
"""Prefixes that may precede ``layers.0``."""

ALIASES = (
    (".experts.gate_proj", (".experts.0.gate_proj", ".experts.0.w1", ".experts")),
    (".experts.up_proj", (".experts.0.up_proj", ".experts.0.w3", ".experts")),
    (".experts.down_proj", (".experts.0.down_proj", ".experts.0.w2", ".experts")),
    (".shared_experts", (".shared_expert",)),
    ("self_attn.q_proj", ("self_attn.qkv_proj", "mixer.q_proj")),
    ("self_attn.k_proj", ("self_attn.qkv_proj", "mixer.k_proj")),
    ("self_attn.v_proj", ("self_attn.qkv_proj", "mixer.v_proj")),
    ("self_attn.o_proj", ("mixer.o_proj",)),
    ("linear_attn.in_proj_qkv", ("linear_attn.in_proj_qkvz",)),
    ("linear_attn.in_proj_z", ("linear_attn.in_proj_qkvz",)),
    ("mlp.", ("mixer.", "block_sparse_moe.", "feed_forward.")),
    ("mixer.", ("mamba.",)),
)
"""Other names of a module in checkpoints."""


@lru_cache(maxsize=100_000)
def module_names(name: str, layer: int | None) -> tuple[str, ...]:
    """Return the names under which a quantised checkpoint may list the module *name* of *layer*."""
    own = [name]
    for part, others in ALIASES:
        own += [each.replace(part, other) for each in own if part in each for other in others]
    return tuple(own) if layer is None else tuple(f"layers.{layer}.{each}" for each in own)


_LONGEST: Final = 2000
"""Characters of an expression. Those of checkpoints, which list layers, have up to some hundred."""
_MOST_BYTES: Final = 4 << 20
"""Memory for one expression."""
_LOOKS = re.compile(r"\^?\(\?([=!])")
_TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|[()|]|.", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Expression:
    """
    A regular expression from a checkpoint: a part that must match from the start, and a part that must not.

    RE2 matches it, in a time that is proportional to the length of the name. RE2 has no lookarounds. Checkpoints use
    them at the start, as in ``^(?!.*experts).*$`` for all modules except the experts, so those are matched separately.
    """

    wanted: tuple[Any, ...]
    unwanted: tuple[Any, ...] = ()

    @classmethod
    def of(cls, text: str) -> "Expression":
        """Return the expression of *text*. Raises `re.error` for text that is damaged, or that RE2 cannot read."""
        if len(text) > _LONGEST:
            raise re.error(f"an expression of {len(text):,} characters")
        looks: dict[str, list[Any]] = {"=": [], "!": []}
        rest = text
        while found := _LOOKS.match(rest):
            inside, rest = _group(rest[found.end() :])
            looks[found[1]].append(_compiled(inside))
        if rest != text and "|" in _outside(rest):
            raise re.error("an alternative to a lookahead")
        return cls((*looks["="], _compiled(rest)), tuple(looks["!"]))

    def match(self, name: str) -> bool:
        """Return whether the expression matches *name* from its start."""
        text = name.encode("utf-8", "replace")
        return all(each.match(text) for each in self.wanted) and not any(each.match(text) for each in self.unwanted)


def _compiled(text: str) -> Any:
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _MOST_BYTES
    try:
        return re2.compile(text.encode("utf-8", "replace"), options)
    except re2.error as problem:
        said = problem.args[0] if problem.args else b""
        raise re.error(said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)) from None


def _group(text: str) -> tuple[str, str]:
    """Return the content of the group at the beginning of *text*, and the rest. Raises `re.error`."""
    depth = 1
    for token in _TOKEN.finditer(text):
        depth += {"(": 1, ")": -1}.get(token[0], 0)
        if depth == 0:
            return text[: token.start()], text[token.end() :]
    raise re.error("missing )")


def _outside(text: str) -> Iterator[str]:
    """Yield the tokens of an expression that are in no group."""
    depth = 0
    for token in _TOKEN.finditer(text):
        depth += {"(": 1, ")": -1}.get(token[0], 0)
        if depth == 0:
            yield token[0]


@dataclass(frozen=True)
class Modules:
    """A list of modules: exact names, globs with a star, and ``re:`` expressions."""

    exact: frozenset[str] = frozenset()
    globs: tuple[re.Pattern[str], ...] = ()
    expressions: tuple[Expression, ...] = ()
    all: bool = False
    _known: dict[tuple[str, ...], bool] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, patterns: Iterable[str]) -> "Modules":
        """
        Return the list of the modules in *patterns*, as checkpoints write it. Raises re.error for an invalid
        expression.
        """
        exact, globs, everything = set(), [], False
        expressions: list[Expression] = []
        for pattern in patterns:
            if pattern == "Linear":
                everything = True
            elif pattern.startswith("re:"):
                expressions.append(Expression.of(pattern[3:]))
            elif "*" in pattern:
                globs.append(re.compile(fnmatch.translate(bare(pattern))))
            else:
                exact.add(bare(pattern))
        return cls(frozenset(exact), tuple(globs), tuple(expressions), everything)

    def match(self, names: tuple[str, ...]) -> bool:
        """Return whether the list of modules contains one of these *names*, or a module around it."""
        if self.all:
            return True
        if names not in self._known:
            self._known[names] = any(self._matches(name) for name in names)
        return self._known[names]

    def _matches(self, name: str) -> bool:
        parts = name.split(".")
        if any(".".join(parts[i:j]) in self.exact for i in range(len(parts)) for j in range(i + 1, len(parts) + 1)):
            return True
        if any(
            glob.match(name) or glob.match(".".join(parts[:i])) for glob in self.globs for i in range(1, len(parts))
        ):
            return True
        return any(e.match(prefix + name) for e in self.expressions for prefix in PREFIXES)


_BESIDE = re.compile(
    r"(^|\.)[a-z_]*(vision|visual|vit|image|audio|speech|sound|tower|projector|talker|code2wav|mtp|draft)"
)
"""Parts of a checkpoint beside the text model. They have separate layers."""


def bare(name: str) -> str:
    """Return the part of a text model's module name from ``layers`` on. Names of other parts are unchanged."""
    name = name.rstrip(".")  # some close a name with one, so that layers.1 is not layers.10 too
    start = name.find("layers.")
    if start > 0 and not _BESIDE.search(name[:start]):
        return name[start:]
    return name.removesuffix(".weight")
