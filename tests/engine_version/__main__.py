r"""What a version of an engine contributes, read from its wheel without importing it, as a TOML file; and what changed.

    python -m tests.engine_version make vllm vllm-0.33.0-cp38-abi3-x86_64.whl \
        --catalogue pytest_longctx/backends/vllm/signatures.toml > pytest_longctx/backends/vllm/versions/0.33.0.toml
    python -m tests.engine_version diff OLD.toml NEW.toml
    python -m tests.engine_version classes transformers-5.24.0-py3-none-any.whl \
        > pytest_longctx/backends/transformers/classes.toml

A flag's key is its first long spelling; "also" and "no" are the others. A value that only the running engine can work
out is written as its expression, "= expression", and as "*expression" in a list.
"""

import argparse
import ast
import json
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tests.engine_version.classes import forms
from tests.engine_version.flags import OTHERS, STARTS, Flags, plain
from tests.engine_version.source import Cls, Env, Reader, Tree, text

KINDS = ("counter", "gauge", "histogram", "summary")
BACKENDS = (
    ("v1.attention.backends.registry", "AttentionBackendEnum"),
    ("attention.backends.registry", "AttentionBackendEnum"),
    ("platforms.interface", "_Backend"),
)
NOTE = '# "= text" is an expression that only the running engine can work out; in a list it is "*text".'


def toml(value: Any) -> str:
    """The value as TOML, on one line."""
    if isinstance(value, dict):
        return (
            "{ " + ", ".join(f"{key_of(key)} = {toml(each)}" for key, each in value.items()) + " }" if value else "{}"
        )
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return repr(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def key_of(name: str) -> str:
    """The name as a key of TOML."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name, ensure_ascii=False)


class Survey:
    """The metrics, the variables and the names that the sources of an engine have."""

    def __init__(self, reader: Reader, engine: str) -> None:
        """Read every source that has such a name."""
        self.reader, self.tree, self.engine = reader, reader.tree, engine
        self.metrics: dict[str, dict[str, Any]] = {}
        self.environment: dict[str, Any] = {}
        self.metric = re.compile(rf"{engine}:[A-Za-z]\w+")
        self.variable = re.compile(r"(VLLM|SGLANG|SGL)_[A-Z0-9_]+")
        self.paths = [path for path in self.tree.paths if not OTHERS.search(path)]
        texts = {path: self.tree.source(path) for path in self.paths}
        measured = [path for path in self.paths if f'"{engine}:' in texts[path]]
        self.called: dict[str, str] = {}
        for path in measured:
            self.called |= dict(self._called(self.tree.parsed(path), ""))
        classes = {key.partition(".")[0] for key in self.called if "." in key}
        for path in self.paths:
            if path in measured or any(f"{name}." in texts[path] for name in classes):
                self._measure(path)
        quoted = re.compile(rf"[\"']{self.variable.pattern}[\"']")
        for path in self.paths:
            if quoted.search(texts[path]) or path.endswith("srt/environ.py"):
                self._variables(ast.parse(texts[path]))
        self._registered()

    def _called(self, node: ast.AST, inside: str) -> Iterator[tuple[str, str]]:
        for child in ast.iter_child_nodes(node):
            around = "" if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)) else inside
            yield from self._called(child, f"{child.name}." if isinstance(child, ast.ClassDef) else around)
            if isinstance(child, ast.Assign) and isinstance(child.targets[0], ast.Name):
                value = child.value
                if isinstance(value, ast.Constant) and self.metric.fullmatch(str(value.value)):
                    yield inside + child.targets[0].id, str(value.value)

    def _named(self, node: ast.AST | None) -> str | None:
        if isinstance(node, ast.Constant) and self.metric.fullmatch(str(node.value)):
            return str(node.value)
        return self.called.get(text(node)) if isinstance(node, (ast.Name, ast.Attribute)) else None

    def _measure(self, path: str) -> None:
        env = Env(path.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
        local = dict(self._called(self.tree.parsed(path), ""))
        before, self.called = self.called, {key: value for key, value in self.called.items() if "." in key} | local
        self._visit(self.tree.parsed(path), "", env)
        self.called = before

    def _visit(self, node: ast.AST, kind: str, env: Env) -> None:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            names: dict[str, Any] = {}
            env = env._replace(names=names)
            for name, value in self.tree.bound((n for n in ast.walk(node) if isinstance(n, ast.Assign)), ""):
                if "label" in name:
                    names[name] = self.reader.value(value, env)
        pairs: list[tuple[ast.AST | None, ast.AST]] = []
        if isinstance(node, ast.Call):
            named = {each.arg: each.value for each in node.keywords}
            pairs = [(named.get("name") or (node.args[0] if node.args else None), node)]
            kind = self._kind(text(node.func)) or kind
        elif isinstance(node, ast.Dict):
            pairs = list(zip(node.keys, node.values, strict=True))
        elif isinstance(node, ast.Assign):
            kind = self._kind(text(node.targets[0])) or kind
        elif isinstance(node, ast.Constant):
            pairs = [(node, node)]
        for key, value in pairs:
            self._note(self._named(key), kind, value, env)
        for child in ast.iter_child_nodes(node):
            self._visit(child, kind, env)

    def _kind(self, called: str) -> str:
        return next((kind for kind in KINDS if kind in called.lower()), "")

    def _note(self, name: str | None, kind: str, made: ast.AST, env: Env) -> None:
        if name is None:
            return
        kind = (self._kind(text(made.func)) if isinstance(made, ast.Call) else "") or kind
        row = self.metrics.setdefault(name, {})
        if kind:
            row.setdefault("type", kind)
        for each in made.keywords if isinstance(made, ast.Call) else []:
            if each.arg and "label" in each.arg and "labels" not in row:
                labels = self.reader.value(each.value, env)
                row["labels"] = plain(labels if isinstance(labels, (list, set)) else [labels])

    def _variables(self, tree: ast.Module) -> None:
        for node in ast.walk(tree):
            match node:
                case ast.Call(func=func, args=[ast.Constant(value=str() as name), *rest]) if (
                    "env" in text(func).lower()
                ):
                    self._default(name, rest[0] if rest else None)
                case ast.Assign(targets=[ast.Name(id=name)], value=ast.Call(func=func, args=args)) if "Env" in text(
                    func
                ):
                    self._default(name, args[0] if args else None)
                case ast.AnnAssign(target=ast.Name(id="environment_variables"), value=ast.Dict(keys=keys)):
                    for key in keys:
                        self._default(str(getattr(key, "value", "")), None)
                case ast.Subscript(value=value, slice=ast.Constant(value=str() as name)) if "environ" in text(value):
                    self._default(name, None)

    def _default(self, name: str, node: ast.expr | None) -> None:
        if self.variable.fullmatch(name):
            value = self.reader.value(node, Env("")) if node is not None else None
            if self.environment.get(name, "= None") == "= None":
                self.environment[name] = "= None" if value is None else plain(value)

    def _registered(self) -> None:
        self.architectures: set[str] = set()
        self.removed: dict[str, str] = {}
        self.registered: dict[str, set[str]] = {"KVConnector": set(), "StorageBackend": set()}
        entry = re.compile(r"\b(KVConnector|StorageBackend)Factory\.register_\w+\(\s*[\"'](\w+)[\"']")
        for path in self.paths:
            for kind, name in entry.findall(self.tree.source(path)):
                self.registered[kind].add(name)
            module = path.removesuffix(".py").replace("/", ".")
            if path == "vllm/model_executor/models/registry.py":
                for name, node in self.tree.names(module).items():
                    if isinstance(node, ast.Dict) and re.fullmatch(r"(?!_PREV|_OOT)_[A-Z_]+_MODELS", name):
                        self.architectures |= set(map(str, self.reader.value(node, Env(module))))
                    elif isinstance(node, ast.Dict) and name == "_PREVIOUSLY_SUPPORTED_MODELS":
                        self.removed = ast.literal_eval(node)
            elif path.startswith("sglang/srt/models/") and (classes := self.tree.names(module).get("EntryClass")):
                listed = classes.elts if isinstance(classes, (ast.List, ast.Tuple)) else [classes]
                self.architectures |= {text(each).rpartition(".")[2] for each in listed}


def literals(tree: Tree, catalogue: Path) -> dict[str, str]:
    """The longest fixed text of each alternative of a catalogue's patterns, and the source that has it, if one has."""
    rows = tomllib.loads(catalogue.read_text(encoding="utf-8"))
    listed = [row for value in rows.values() for row in (value if isinstance(value, list) else [value])]
    patterns = [row["regex"] for row in listed if isinstance(row, dict) and "regex" in row]
    joined = {
        path: re.sub(r"""["']\s*\n\s*[rfb]*["']""", "", tree.source(path))
        for path in tree.paths
        if not OTHERS.search(path)
    }
    found = {}
    for pattern in patterns:
        for part in re.split(r"(?<!\\)\|", pattern):
            bare = re.sub(
                r"(?<!\\)\[(?:\\.|[^\]])*\][+*?]?|\\[wdsSDWb][+*?]?|\(\?(?:P<\w+>|[:=!]|<[=!])|.[*?]", "\0", part
            )
            runs = re.sub(r"\\([^\w])", "\1\\1", bare)
            pieces = [re.sub("\1(.)", r"\1", each) for each in re.split(r"(?<!\x01)[\0()^$.+{}]", runs)]
            best = max(pieces, key=len)
            if len(best.strip()) > 5:
                bare = best.strip(" .:,[(")  # a value may bring its own bracket
                found[best] = next((path for path, source in joined.items() if bare in source), "")
    return found


def rendered(tree: Tree, engine: str, version: str, catalogue: Path | None) -> str:
    """The file of a version."""
    reader = Flags(tree, engine)
    survey = Survey(reader, engine)
    flags = reader.flags
    parsers = [
        path
        for path in tree.paths
        if re.search(r"argparse_utils|vllm/utils/__init__|cli/(main|serve)|srt/server_args", path)
    ]
    parsing = "".join(tree.source(path) for path in parsers)
    backends = [reader.named(f"vllm.{module}", name) for module, name in BACKENDS]
    enum = next((each for each in backends if isinstance(each, Cls)), None)
    methods = reader.named("vllm.model_executor.layers.quantization", "QuantizationMethods")
    allowed = {key: row.get("choices") or row.get("known", []) for key, row in flags.items()}
    transfers = set(allowed.get("disaggregation-transfer-backend", []))
    values = {
        "kv_cache_dtypes": allowed.get("kv-cache-dtype", []),
        "attention_backends": [m.name for m in reader.members(enum)] if enum else allowed.get("attention-backend", []),
        "quantization": methods if isinstance(methods, list) else allowed.get("quantization", []),
        "kv_connectors": sorted(survey.registered["KVConnector"] | transfers),
        "kv_storage_backends": sorted(survey.registered["StorageBackend"]),
        "architectures": sorted(survey.architectures),
    }
    lines = [f"# What {engine} {version} contributes, read from its package by tests.engine_version.", NOTE]
    lines += [f"engine = {toml(engine)}", f"version = {toml(version)}", "", "[parser]"]
    lines += [f"allow_abbrev = {toml('allow_abbrev' not in parsing)}"]
    lines += [f"underscores = {toml('class FlexibleArgumentParser' in parsing)}"]
    lines += [f"enable_disable = {toml(reader.inverse)}"]
    lines += [f"dotted_keys = {toml('--json-arg.key1' in parsing)}", "", "[values]"]
    for name, each in values.items():
        lines += [f"{name} = [", *(f"    {toml(one)}," for one in each), "]"]
    needed = tree.told(r"^Requires-Dist: transformers([<>=~!][^;\s]*)\s*$")
    lines += ["", *table_lines("requires", {"transformers": needed} if needed else {})]
    lines += ["", *table_lines("removed", survey.removed)]
    tables: dict[str, dict[str, Any]] = {"flags": flags, "metrics": survey.metrics, "environment": survey.environment}
    if catalogue:
        tables["literals"] = literals(tree, catalogue)
    for name, table in tables.items():
        lines += ["", *table_lines(name, table)]
    return "\n".join(lines) + "\n"


def table_lines(name: str, table: dict[str, Any]) -> list[str]:
    """A table of the file, one key a line."""
    return [f"[{name}]", *(f"{key_of(key)} = {toml(table[key])}" for key in sorted(table))]


def rendered_classes(tree: Tree, version: str) -> str:
    """The file of the classes of Transformers."""
    lines = [f"# Classes of Transformers {version} that generate text, read from its package by tests.engine_version."]
    lines += [f"version = {toml(version)}"]
    for form, names in forms(tree).items():
        lines += [f"{form} = [", *(f"    {toml(name)}," for name in names), "]"]
    return "\n".join(lines) + "\n"


def changes(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    """What is gone, new and different, section by section."""
    for section in ("parser", "requires", "removed", "flags", "metrics", "environment", "literals"):
        before, after = old.get(section, {}), new.get(section, {})
        if section == "flags":  # how a switch is denied is a rule of the parser
            before, after = ({key: _bare(row) for key, row in each.items()} for each in (before, after))
        yield from _compared(section, before, after)
    for name in sorted(old["values"] | new["values"]):
        before, after = (dict.fromkeys(each["values"].get(name, []), "") for each in (old, new))
        yield from _compared(name, before, after)


def _compared(section: str, before: dict[str, Any], after: dict[str, Any]) -> Iterable[str]:
    gone, came = sorted(before.keys() - after.keys()), sorted(after.keys() - before.keys())
    other = sorted(key for key in before.keys() & after.keys() if before[key] != after[key])
    if gone or came or other:
        yield f"{section}: {len(gone)} gone, {len(came)} new, {len(other)} different"
        yield from (f"  - {key}" for key in gone)
        yield from (f"  + {key}" + (f" {toml(after[key])}" if after[key] else "") for key in came)
        yield from (f"  ~ {key}: {_change(before[key], after[key])}" for key in other)


def _bare(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != "no"}


def _change(before: Any, after: Any) -> str:
    if not isinstance(before, dict) or not isinstance(after, dict):
        return f"{toml(before)} -> {toml(after)}"
    said = []
    for key in sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key)):
        one, other = before.get(key), after.get(key)
        if isinstance(one, list) or isinstance(other, list):
            one, other = one or [], other or []
            signs = [f"-{each}" for each in one if each not in other] + [
                f"+{each}" for each in other if each not in one
            ]
            said.append(f"{key} {' '.join(signs) or 'in another order'}")
        else:
            said.append(f"{key} {'none' if one is None else toml(one)} -> {'none' if other is None else toml(other)}")
    return "; ".join(said)


def main() -> int:
    """The console command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("make", help="write the file of a version")
    make.add_argument("engine", choices=sorted(STARTS))
    make.add_argument("place", type=Path, help="a wheel, or a folder that holds the engine's package")
    make.add_argument("--version", help="where the package does not say it")
    make.add_argument("--catalogue", type=Path, help="whose patterns' texts are looked for")
    classes = commands.add_parser("classes", help="write the file of the classes of Transformers")
    classes.add_argument("place", type=Path, help="a wheel of Transformers, or a folder that holds it")
    classes.add_argument("--version", help="where the package does not say it")
    diff = commands.add_parser("diff", help="say what changed between two files")
    diff.add_argument("old", type=Path)
    diff.add_argument("new", type=Path)
    asked = parser.parse_args()
    if asked.command == "diff":
        print("\n".join(changes(*(tomllib.loads(path.read_text(encoding="utf-8")) for path in (asked.old, asked.new)))))
        return 0
    tree = Tree(asked.place, "transformers" if asked.command == "classes" else asked.engine)
    if asked.command == "classes":
        sys.stdout.write(rendered_classes(tree, asked.version or tree.told(r"^Version: (\S+)")))
        return 0
    sys.stdout.write(rendered(tree, asked.engine, asked.version or tree.told(r"^Version: (\S+)"), asked.catalogue))
    return 0


if __name__ == "__main__":
    sys.exit(main())
