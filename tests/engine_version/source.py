"""The sources of a package as syntax trees, and what its expressions are worth without running anything."""

import ast
import operator
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

COMPUTED: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Pow: operator.pow, ast.LShift: operator.lshift, ast.BitOr: operator.or_,
}  # fmt: skip


class Code(str):
    """An expression that is not followed."""

    __slots__ = ()


class Imported(NamedTuple):
    """A name that another module has; without a name it is that module."""

    module: str
    name: str


class Cls(NamedTuple):
    """A class of the engine."""

    module: str
    node: ast.ClassDef


class Member(NamedTuple):
    """A member of an enumeration."""

    name: str
    value: Any


class Super(NamedTuple):
    """What super() is in a method of *owner* called on *bound*."""

    owner: Cls
    bound: Cls


class Env(NamedTuple):
    """Where an expression stands: its module, the local names, the class of the method and the one it was called on."""

    module: str
    names: dict[str, Any] = {}
    owner: Cls | None = None
    bound: Cls | None = None


def text(node: ast.AST) -> str:
    """The node as it would be written on one line."""
    return " ".join(ast.unparse(node).split())


class Tree:
    """The sources of a wheel or of a folder."""

    def __init__(self, place: Path, engine: str) -> None:
        """*place* may hold the engine below another folder, as a checkout does."""
        self.wheel = None if place.is_dir() else zipfile.ZipFile(place)
        self.place = place
        names = self.wheel.namelist() if self.wheel else [p.relative_to(place).as_posix() for p in place.rglob("*")]
        roots = [name.removesuffix(f"{engine}/__init__.py") for name in names if name.endswith(f"{engine}/__init__.py")]
        self.root = min(roots, key=len)
        self.about = next((name for name in names if name.endswith(".dist-info/METADATA")), None)
        found = sorted(name for name in names if name.startswith(f"{self.root}{engine}/") and name.endswith(".py"))
        self.paths = [name.removeprefix(self.root) for name in found]
        self.known = frozenset(self.paths)

    def source(self, path: str) -> str:
        """The text of a source."""
        return self._raw(self.root + path)

    def _raw(self, name: str) -> str:
        data = self.wheel.read(name) if self.wheel else (self.place / name).read_bytes()
        return data.decode("utf-8-sig", "replace")

    def told(self, pattern: str) -> str:
        """What the package's METADATA says by the first group of a pattern; empty if it says nothing."""
        return "".join(re.findall(pattern, self._raw(self.about), re.MULTILINE)[:1]) if self.about else ""

    @cache  # noqa: B019 there is one tree, and it lives as long as the program
    def parsed(self, path: str) -> ast.Module:
        """The syntax tree of a source."""
        return ast.parse(self.source(path))

    def path(self, module: str) -> str | None:
        """Where a module is."""
        base = module.replace(".", "/")
        return next((path for path in (f"{base}.py", f"{base}/__init__.py") if path in self.known), None)

    @cache  # noqa: B019
    def names(self, module: str) -> dict[str, Any]:
        """What a module defines at its top; the branch that runs wins over the one for type checkers."""
        path = self.path(module)
        if path is None:
            return {}
        package = module if path.endswith("__init__.py") else module.rpartition(".")[0]
        pairs = list(self.bound(self.parsed(path).body, package))
        return dict(pairs) | {name: node for name, node in pairs if isinstance(node, ast.ClassDef)}

    def bound(self, body: Iterable[ast.stmt], package: str) -> Iterator[tuple[str, Any]]:
        """The names that statements bind, and to what."""
        for node in body:
            match node:
                case ast.ImportFrom():
                    above = package.rsplit(".", node.level - 1)[0] if node.level else ""
                    origin = ".".join(filter(None, (above, node.module)))
                    named = [(each.asname or each.name, each.name) for each in node.names]
                    yield from ((f"*{origin}" if name == "*" else as_, Imported(origin, name)) for as_, name in named)
                case ast.ClassDef() | ast.FunctionDef():
                    yield node.name, node
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    yield name, value
                case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                    yield name, value
                case ast.If() | ast.Try():
                    yield from self.bound(node.body + (node.orelse if isinstance(node, ast.If) else []), package)
                case _:
                    pass

    def find(self, module: str, name: str, depth: int = 8) -> tuple[str, Any]:
        """The module that really has the name, and the node there."""
        names = self.names(module)
        node = names.get(name)
        if isinstance(node, Imported) and depth:
            return self.find(node.module, node.name, depth - 1)
        stars = [key[1:] for key in names if key.startswith("*")] if node is None and depth else []
        found = (self.find(star, name, depth - 1) for star in stars)
        return next((each for each in found if each[1] is not None), (module, node))


class Reader:
    """Works out expressions and walks functions, as far as that goes without running anything."""

    def __init__(self, tree: Tree) -> None:
        """What *calls* names is worked out here; any other call stays code."""
        self.tree = tree
        self._open: set[int] = set()
        self.calls: dict[str, Callable[[ast.Call, Env], Any]] = {
            **dict.fromkeys(("list", "sorted", "tuple", "set", "frozenset", "dict", "get_args"), self._sequence),
            **dict.fromkeys(("Field", "field"), self._default),
            "super": lambda _, env: Super(env.owner, env.bound) if env.owner and env.bound else Code("super()"),
        }

    def add(self, names: list[Any], settings: dict[str, Any]) -> None:
        """Take note of an argument that is added to a parser."""

    def value(self, node: ast.expr, env: Env) -> Any:
        """What an expression is worth, or its code."""
        method = getattr(self, f"_{type(node).__name__.lower()}", None)
        if method is None or id(node) in self._open:
            return Code(text(node))
        self._open.add(id(node))
        try:
            return method(node, env)
        finally:
            self._open.discard(id(node))

    def named(self, module: str, name: str) -> Any:
        """What a name at the top of a module is worth."""
        where, node = self.tree.find(module, name)
        if isinstance(node, ast.ClassDef):
            return Cls(where, node)
        return self.value(node, Env(where)) if isinstance(node, ast.expr) else node or Code(name)

    def _constant(self, node: ast.Constant, _env: Env) -> Any:
        return node.value if isinstance(node.value, (str, int, float, bool, type(None))) else Code(text(node))

    def _name(self, node: ast.Name, env: Env) -> Any:
        if env.owner and env.bound is None and node.id in dict(self.tree.bound(env.owner.node.body, "")):
            return self.member(env.owner, node.id)
        found = env.names[node.id] if node.id in env.names else self.named(env.module, node.id)
        return Code(node.id) if isinstance(found, Imported) else found

    def _attribute(self, node: ast.Attribute, env: Env) -> Any:
        base = self.value(node.value, env)
        if isinstance(base, Member) and node.attr in Member._fields:
            return getattr(base, node.attr)
        return self.member(base, node.attr) if isinstance(base, Cls) else Code(text(node))

    def _items(self, nodes: Iterable[ast.expr], env: Env) -> list[Any]:
        found: list[Any] = []
        for node in nodes:
            value = self.value(node.value if isinstance(node, ast.Starred) else node, env)
            found += value if isinstance(node, ast.Starred) and isinstance(value, list) else [value]
        return found

    def _list(self, node: ast.List | ast.Tuple, env: Env) -> list[Any]:
        return self._items(node.elts, env)

    _tuple = _list

    def _set(self, node: ast.Set, env: Env) -> Any:
        return set(self._items(node.elts, env))

    def _dict(self, node: ast.Dict, env: Env) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for key, each in zip(node.keys, node.values, strict=True):
            value = self.value(each, env)
            found |= {self.value(key, env): value} if key else value if isinstance(value, dict) else {}
        return found

    def _binop(self, node: ast.BinOp, env: Env) -> Any:
        left, right = self.value(node.left, env), self.value(node.right, env)
        if isinstance(node.op, ast.Add) and list in {type(left), type(right)}:
            return [each for side in (left, right) for each in (side if isinstance(side, list) else [side])]
        method = COMPUTED.get(type(node.op))
        if method is None or isinstance(left, (Code, Cls)) or isinstance(right, (Code, Cls)):
            return Code(text(node))
        try:
            return method(left, right)
        except TypeError:
            return Code(text(node))

    def _unaryop(self, node: ast.UnaryOp, env: Env) -> Any:
        value = self.value(node.operand, env)
        sign: Callable[[Any], Any] | None = {ast.USub: operator.neg, ast.Not: operator.not_}.get(type(node.op))
        return sign(value) if sign and isinstance(value, (int, float)) else Code(text(node))

    def _joinedstr(self, node: ast.JoinedStr, env: Env) -> str:
        parts = [self.value(each.value if isinstance(each, ast.FormattedValue) else each, env) for each in node.values]
        unknown = any(isinstance(part, Code) or not isinstance(part, (str, int, float)) for part in parts)
        return Code(text(node)) if unknown else "".join(map(str, parts))

    def _subscript(self, node: ast.Subscript, env: Env) -> Any:
        if text(node.value).rpartition(".")[2] == "Literal":
            values = self._items(node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice], env)
            return [each for value in values for each in (value if isinstance(value, list) else [value])]
        base, key = self.value(node.value, env), self.value(node.slice, env)
        try:
            return base[key] if isinstance(base, (dict, list)) else Code(text(node))
        except (LookupError, TypeError):
            return Code(text(node))

    def _listcomp(self, node: ast.ListComp, env: Env) -> Any:
        first = node.generators[0]
        values = self.value(first.iter, env)
        values = self.members(values) if isinstance(values, Cls) else values
        if not isinstance(values, list) or not isinstance(first.target, ast.Name):
            return Code(text(node))
        return [self.value(node.elt, env._replace(names={**env.names, first.target.id: each})) for each in values]

    def _call(self, node: ast.Call, env: Env) -> Any:
        special = self.calls.get(text(node.func).removeprefix("dataclasses.").removeprefix("msgspec."))
        if special:
            return special(node, env)
        if isinstance(node.func, ast.Attribute):
            return self._method(node, node.func, env)
        found = self.value(node.func, env)
        if isinstance(found, ast.FunctionDef) and (self._adds(node) or re.search("choices|modes", found.name)):
            return self.run(found, node, env, Env(self.tree.find(env.module, text(node.func))[0]))
        return Code(text(node))

    def _method(self, node: ast.Call, func: ast.Attribute, env: Env) -> Any:
        if func.attr == "add_argument":
            self.add(*self.arguments(node, env))
        base = self.value(func.value, env)
        if isinstance(base, (Cls, Super)) and (self._adds(node) or "cli" in func.attr):
            bound = base.bound if isinstance(base, Super) else base
            above = [each for each in self.mro(bound) if not isinstance(base, Super) or each != base.owner]
            for each in above:
                named = [one for one in each.node.body if isinstance(one, ast.FunctionDef) and one.name == func.attr]
                if named:
                    return self.run(named[0], node, env, Env(each.module, {}, each, bound))
        if isinstance(base, (dict, list, set, str)) and not isinstance(base, Code):
            args, kwargs = self.arguments(node, env)
            try:
                found = getattr(base, func.attr)(*args, **kwargs)
            except (AttributeError, KeyError, TypeError, ValueError):
                return Code(text(node))
            return found if isinstance(found, (str, dict, list, type(None))) else list(found)
        return Code(text(node))

    def _adds(self, node: ast.Call) -> bool:
        return any(isinstance(each, ast.Name) and "parser" in each.id for each in node.args)

    def _sequence(self, node: ast.Call, env: Env) -> Any:
        value = self.value(node.args[0], env) if node.args else []
        kind = text(node.func)
        if not isinstance(value, (list, set, dict)) or kind == "dict":
            return self.arguments(node, env)[1] if kind == "dict" and not node.args else value
        values = list(value)
        return set(values) if kind in {"set", "frozenset"} else sorted(values, key=str) if kind == "sorted" else values

    def _default(self, node: ast.Call, env: Env) -> Any:
        given = {each.arg: each.value for each in node.keywords}
        factory = given.get("default_factory")
        if factory is None:
            value = given.get("default", node.args[0] if node.args else None)
            return self.value(value, env) if value is not None else ...
        if isinstance(factory, ast.Lambda):
            return self.value(factory.body, env)
        return {"list": [], "dict": {}, "set": []}.get(text(factory), Code(f"{text(factory)}()"))

    def arguments(self, node: ast.Call, env: Env) -> tuple[list[Any], dict[str, Any]]:
        """The arguments of a call."""
        kwargs: dict[str, Any] = {}
        for each in node.keywords:
            value = self.value(each.value, env)
            kwargs |= {each.arg: value} if each.arg else value if isinstance(value, dict) else {}
        return self._items(node.args, env), kwargs

    def run(self, function: ast.FunctionDef, call: ast.Call, env: Env, inside: Env) -> Any:
        """Walk a function with the arguments of a call; both branches of what cannot be decided are walked."""
        args, kwargs = self.arguments(call, env)
        params = [each.arg for each in function.args.args]
        decorated = {text(each) for each in function.decorator_list}
        names: dict[str, Any] = {}
        if inside.bound and "staticmethod" not in decorated:
            names[params.pop(0)] = inside.bound
        names |= dict(zip(params, args, strict=False)) | kwargs
        inside = inside._replace(names=names)
        self._walk(function.body, inside)
        return names.get("return", Code(text(call)))

    def _walk(self, body: Iterable[ast.stmt], env: Env) -> None:
        for node in body:
            match node:
                case ast.If():
                    test = self.value(node.test, env)
                    known = isinstance(test, bool)
                    self._walk(([] if known and not test else node.body) + ([] if known and test else node.orelse), env)
                case ast.For():
                    self._loop(node, env)
                case ast.With() | ast.Try():
                    self._walk(node.body, env)
                case ast.ImportFrom():
                    for name, origin in self.tree.bound([node], env.module.rpartition(".")[0]):
                        env.names[name] = self.named(origin.module, origin.name)
                case _:
                    self._step(node, env)

    def _step(self, node: ast.stmt, env: Env) -> None:
        match node:
            case ast.Assign(targets=[target], value=value) | ast.AnnAssign(target=target, value=ast.expr() as value):
                self._bind(target, self.value(value, env), env)
            case ast.AugAssign(target=ast.Name(id=name)):
                env.names[name] = self.value(ast.BinOp(ast.Name(name, ast.Load()), node.op, node.value), env)
            case ast.Delete(targets=[ast.Subscript() as target]):
                self._bind(target, None, env)
            case ast.Return(value=ast.expr() as value):
                env.names["return"] = self.value(value, env)
            case ast.Expr(value=value):
                self.value(value, env)
            case _:
                pass

    def _loop(self, node: ast.For, env: Env) -> None:
        values = self.value(node.iter, env)
        for each in values if isinstance(values, list) else []:
            self._bind(node.target, list(each) if isinstance(each, tuple) else each, env)
            self._walk(node.body, env)

    def _bind(self, target: ast.expr, value: Any, env: Env) -> None:
        if isinstance(target, ast.Name):
            env.names[target.id] = value
        elif isinstance(target, ast.Tuple) and isinstance(value, list):
            for each, one in zip(target.elts, value, strict=False):
                self._bind(each, one, env)
        elif isinstance(target, ast.Subscript):
            base, key = self.value(target.value, env), self.value(target.slice, env)
            if isinstance(base, dict):
                base[key] = value

    def mro(self, cls: Any) -> list[Cls]:
        """The class and those it is made from."""
        if not isinstance(cls, Cls):
            return []
        above = [each for base in cls.node.bases for each in self.mro(self.value(base, Env(cls.module)))]
        return list(dict.fromkeys([cls, *above]))

    def bases(self, cls: Cls) -> str:
        """The names of all that a class is made from, and of its decorators."""
        return " ".join(text(each) for one in self.mro(cls) for each in (*one.node.bases, *one.node.decorator_list))

    def members(self, cls: Cls) -> list[Member]:
        """The members of an enumeration."""
        found = self.tree.bound(cls.node.body, "")
        return [Member(n, self.value(v, Env(cls.module))) for n, v in found if isinstance(v, ast.expr) and n[0] != "_"]

    def member(self, cls: Any, name: str) -> Any:
        """What an attribute of a class is worth."""
        for each in self.mro(cls):
            node = dict(self.tree.bound(each.node.body, "")).get(name)
            if isinstance(node, ast.expr):
                value = self.value(node, Env(each.module, owner=each))
                return Member(name, value) if "Enum" in self.bases(each) else value
        return Code(f"{cls.node.name}.{name}" if isinstance(cls, Cls) else f"{cls}.{name}")
