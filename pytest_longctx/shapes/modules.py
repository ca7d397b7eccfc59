"""Names of modules in a quantised checkpoint, in their various spellings, and lists of such names."""

import fnmatch
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

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
    """The names under which a quantised checkpoint may list the module *name* of *layer*."""
    own = [name]
    for part, others in ALIASES:
        own += [each.replace(part, other) for each in own if part in each for other in others]
    return tuple(own) if layer is None else tuple(f"layers.{layer}.{each}" for each in own)


@dataclass(frozen=True)
class Modules:
    """A list of modules: exact names, globs with a star, and ``re:`` expressions."""

    exact: frozenset[str] = frozenset()
    globs: tuple[re.Pattern[str], ...] = ()
    expressions: tuple[re.Pattern[str], ...] = ()
    all: bool = False
    _known: dict[tuple[str, ...], bool] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, patterns: Iterable[str]) -> "Modules":
        """Read a list of modules as checkpoints write it. Raises re.error for an invalid expression."""
        exact, globs, expressions, everything = set(), [], [], False
        for pattern in patterns:
            if pattern == "Linear":
                everything = True
            elif pattern.startswith("re:"):
                expressions.append(re.compile(pattern[3:]))
            elif "*" in pattern:
                globs.append(re.compile(fnmatch.translate(bare(pattern))))
            else:
                exact.add(bare(pattern))
        return cls(frozenset(exact), tuple(globs), tuple(expressions), everything)

    def match(self, names: tuple[str, ...]) -> bool:
        """Whether the list of modules contains one of these *names*, or a module that contains it."""
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


def bare(name: str) -> str:
    """The part of a module's name from ``layers`` on, if it has one."""
    start = name.find("layers.")
    return name[start:] if start > 0 else name.removesuffix(".weight")
