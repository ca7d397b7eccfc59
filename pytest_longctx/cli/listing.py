"""``longctx list`` and ``longctx show``: all things with a name, in the package and in a project's own folders."""

import inspect
import json
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from pydantic import BaseModel

from pytest_longctx import backends, paths, registry
from pytest_longctx.deployments import deployment
from pytest_longctx.diagnosis import signatures as diagnosis_signatures
from pytest_longctx.errors import UsageError
from pytest_longctx.findings.ask import QUESTIONS
from pytest_longctx.findings.finding import Finding
from pytest_longctx.findings.finding import load_all as load_findings
from pytest_longctx.findings.markers import LENGTHS, THEMES
from pytest_longctx.measures import MEASURES
from pytest_longctx.redaction import masked, secret_values, shown

_MOST_NEAR: Final = 3
_SIMILAR: Final = 0.5
"""Least similarity of a typed name and a known one, from 0 to 1, for `get_close_matches`."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing with a name: a finding, a deployment, a backend, a signature and so on."""

    kind: str
    """Its kind, in the singular: finding, deployment, backend, marker, measure or signature."""
    name: str
    title: str
    facts: Mapping[str, Any]
    """Its data, as JSON."""

    def as_json(self) -> dict[str, Any]:
        """Return the entry as one JSON object."""
        return {"kind": self.kind, "name": self.name, "title": self.title, **self.facts}

    def lines(self) -> Iterator[str]:
        """Yield the entry as lines for a terminal: its title, then one line for each fact."""
        yield f"{self.kind} {self.name}: {self.title}"
        rows = list(_flat(self.facts))
        width = max((len(key) for key, _ in rows), default=0)
        yield from (f"  {key:<{width}}  {text}" for key, text in rows)


class Data:
    """The findings and deployments of data folders, each read once."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = folders

    @cached_property
    def findings(self) -> dict[str, Finding]:
        """Findings by id."""
        return load_findings(tuple(folder / "findings" for folder in self.folders))

    @cached_property
    def deployments(self) -> dict[str, deployment.Deployment]:
        """Deployments by name."""
        return deployment.load_all(tuple(folder / "deployments" for folder in self.folders))


def _flat(facts: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    for key, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")
        elif isinstance(value, (list, tuple)):
            if value:
                yield f"{before}{key}", ", ".join(map(str, value))
        elif value not in (None, ""):
            yield f"{before}{key}", " ".join(str(value).split())


def _table(one: BaseModel, *without: str) -> dict[str, Any]:
    """Return the keys that the file of the table *one* sets, as JSON."""
    return one.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude=set(without))


def _findings(data: Data) -> Iterator[Entry]:
    deployed = {one.name: one.backend for one in data.deployments.values()}
    for one in data.findings.values():
        asks = QUESTIONS.get(one.question, "")
        facts = {"asks": asks, **_table(one, "id", "title"), "run": _run_of(one, deployed)}
        yield Entry("finding", one.id, one.title, facts)


def _run_of(one: Finding, deployed: Mapping[str, str]) -> str:
    """Return the command that judges the finding *one*, with a suitable backend."""
    named = [deployed[name] for name in one.scope.deployment if name in deployed]
    backend = next(iter((*one.scope.backend, *named)), "NAME")
    if one.question == "certified":
        return "longctx certify URL"
    return f"pytest --pyargs pytest_longctx.suites --backend={backend} -k {one.id}"


def _deployments(data: Data) -> Iterator[Entry]:
    for one in data.deployments.values():
        secrets = secret_values(one.env, one.arguments())
        table = json.loads(masked(json.dumps(_table(one, "name", "title")), secrets))
        facts = {**table, "command": f"longctx render {one.name} --launcher process"}
        yield Entry("deployment", one.name, one.title, facts)


def _backends(data: Data) -> Iterator[Entry]:
    served = [one.backend for one in data.deployments.values()]
    for name in registry.BACKENDS:
        made = backends.named(name)
        said = " ".join((inspect.getdoc(type(made)) or "").partition("\n\n")[0].split())
        facts = {
            "package": made.package,
            "install": f"longctx engine {name}" if made.install else None,
            "deployments": served.count(name),
            "signatures": len(made.catalogue.signature),
            "metrics": _table(made.metrics),
        }
        yield Entry("backend", name, said, facts)


def _markers(data: Data) -> Iterator[Entry]:
    known = data.findings.values()
    for name, tokens in LENGTHS.items():
        found = [one.id for one in known if name in one.markers]
        yield Entry("marker", name, f"contexts of about {tokens:,} tokens", {"tokens": tokens, "findings": found})
    for name, said in THEMES.items():
        yield Entry("marker", name, said, {"findings": [one.id for one in known if name in one.markers]})


def _measures(data: Data) -> Iterator[Entry]:
    known = data.findings.values()
    for name, one in MEASURES.items():
        facts = {
            "unit": one.unit,
            "needs a cold cache": one.cold_only,
            "bounded by": [each.id for each in known if name in each.bounds],
        }
        yield Entry("measure", name, one.meaning, facts)


def _signatures(_: Data) -> Iterator[Entry]:
    files = {**diagnosis_signatures.engine_files(), **backends.signature_files()}
    found = {name: diagnosis_signatures.load(path) for name, path in sorted(files.items())}
    for engine, catalogue in {**found, "every engine": diagnosis_signatures.common()}.items():
        for each in (*catalogue.signature, *catalogue.refusal):
            facts = {"engine": engine, **_table(each, "id")}
            yield Entry("signature", each.id, f"{each.kind} ({engine})", facts)
        for notice in catalogue.benign:
            facts = {"engine": engine, "harmless": True, **_table(notice, "id")}
            yield Entry("signature", notice.id, f"harmless: {notice.why} ({engine})", facts)


KINDS: Mapping[str, Callable[[Data], Iterator[Entry]]] = MappingProxyType(
    {
        "findings": _findings,
        "deployments": _deployments,
        "backends": _backends,
        "markers": _markers,
        "measures": _measures,
        "signatures": _signatures,
    }
)
"""Functions that list a kind, by its name."""


def add(commands: Any) -> None:
    """Add the subcommands ``longctx list`` and ``longctx show`` to the console parser."""
    listed: ArgumentParser = commands.add_parser(
        "list", help="list the named items: findings, deployments, markers ..."
    )
    listed.add_argument("what", nargs="?", choices=KINDS, help="default: the number of items of each kind")
    showed: ArgumentParser = commands.add_parser(
        "show", help="show one finding, deployment, backend, marker, measure or signature"
    )
    showed.add_argument("id", metavar="ID", help="the name, as `longctx list` prints it")
    for parser, run in ((listed, _list), (showed, _show)):
        parser.add_argument(
            "--data", type=Path, action="append", default=[], help="folder with findings/ and deployments/"
        )
        parser.add_argument("--json", action="store_true", help="print JSON")
        parser.set_defaults(run=run)


def entries(kind: str, data: Data) -> list[Entry]:
    """Return all things of *kind*, a key of `KINDS`, in *data*. Raises `TableError` for a wrong file."""
    return list(KINDS[kind](data))


def _list(given: Namespace) -> int:
    data = Data(paths.data(given.data, "--data"))
    if given.what is None:
        counts = {kind: len(entries(kind, data)) for kind in KINDS}
        rows: Sequence[str] = [f"{kind:<12} {count:>5}   longctx list {kind}" for kind, count in counts.items()]
        print(json.dumps(counts, indent=1) if given.json else "\n".join(rows))
        return 0
    found = entries(given.what, data)
    if given.json:
        print(json.dumps([one.as_json() for one in found], indent=1))
        return 0
    width = max((len(one.name) for one in found), default=0)
    print(shown("\n".join(f"{one.name:<{width}}  {one.title}" for one in found)))
    return 0


def _show(given: Namespace) -> int:
    found = named(given.id, Data(paths.data(given.data, "--data")))
    if given.json:
        print(json.dumps([one.as_json() for one in found], indent=1))
    else:
        print(shown("\n\n".join("\n".join(one.lines()) for one in found)))
    return 0


def named(name: str, data: Data) -> list[Entry]:
    """
    Return all entries with the name *name*, which a deployment and a backend, or signatures of several engines, may
    share.

    Upper and lower case are equal. Raises `UsageError` with the nearest known names.
    """
    every = [one for kind in KINDS for one in entries(kind, data)]
    if found := [one for one in every if one.name == name] or [one for one in every if _same(one.name, name)]:
        return found
    known = {one.name.casefold(): one for one in every}
    near = [known[word] for word in get_close_matches(name[:200].casefold(), known, _MOST_NEAR, _SIMILAR)]
    guess = "".join(f"\n  near     {one.name} ({one.kind}: {one.title})" for one in near)
    what = "finding, deployment, backend, marker, measure or signature"
    raise UsageError(f"there is no {what} called {name[:200]!r}{guess}\n  try      longctx list")


def _same(one: str, other: str) -> bool:
    return one.casefold() == other.casefold()
