"""The flags of a server, read from the code that registers them."""

import ast
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from tests.engine_version.source import Cls, Code, Env, Member, Reader, Tree, text

OTHERS = re.compile(r"(^|/)(tests?|benchmarks?|multimodal_gen)/")
COLLECTIONS = ("tuple", "list", "set", "sequence")
SWITCHES = ("store_true", "store_false", "store_const", "count", "help")
STARTS = {
    "vllm": ("def make_arg_parser(", "make_arg_parser(parser)"),
    "sglang": ("\nclass ServerArgs", "ServerArgs.add_cli_args(parser)"),
}


def plain(value: Any) -> Any:
    """The value as it stands in the file."""
    match value:
        case Code():
            value = f"= {value}"
        case Cls():
            value = f"= {value.node.name}"
        case ast.FunctionDef():
            value = f"= {value.name}"
        case Member():
            value = value.name if isinstance(value.value, Code) else plain(value.value)
        case set():
            value = sorted((plain(each) for each in value), key=str)
        case list():
            value = [f"*{each}" if isinstance(each, Code) else plain(each) for each in value if each is not None]
        case dict():
            value = {str(plain(key)): plain(each) for key, each in value.items() if each is not None}
        case _:
            pass
    return value


class Hint(NamedTuple):
    """One alternative of an annotation: its kind, and the values of a Literal, the elements of a list, or the class."""

    kind: str
    inner: Any = None


class Field(NamedTuple):
    """A field of a configuration class."""

    annotation: ast.expr
    default: Any
    doc: str
    env: Env


class Flags(Reader):
    """The flags that a server's parser is given."""

    def __init__(self, tree: Tree, engine: str) -> None:
        """Walk the function that fills the parser."""
        super().__init__(tree)
        self.flags: dict[str, dict[str, Any]] = {"help": {"also": ["-h"], "type": "switch"}}
        self.calls |= {
            "get_kwargs": lambda node, env: self.config_kwargs(self.value(node.args[0], env)),
            "get_field": lambda node, env: self.member(*(self.value(each, env) for each in node.args)),
            "_declared_default": lambda node, env: self.member_field(self.value(node.args[0], env), env).default,
            "add_cli_args_from_dataclass": lambda node, env: self.annotated(self.value(node.args[1], env)),
        }
        self.rules = next((self.ruled(path) for path in tree.paths if path == "vllm/engine/arg_utils.py"), {})
        self.inverse = any(
            "class EnableDisableAction" in tree.source(path) for path in tree.paths if "argparse" in path
        )
        where, call = STARTS[engine]
        paths = [path for path in tree.paths if path.endswith("_args.py") and not OTHERS.search(path)]
        path = next(path for path in paths if where in tree.source(path))
        start = ast.parse(call, mode="eval").body
        self.value(start, Env(path.removesuffix(".py").replace("/", ".")))

    def ruled(self, path: str) -> dict[str, str]:
        """Which integers may be written as 1K or auto; and, as "", whether a switch may take a value."""
        made = next(n for n in self.tree.parsed(path).body if getattr(n, "name", "") == "_compute_kwargs")
        found = {"": "takes a value"} if "'const'" in text(made) else {}
        for node in ast.walk(made):
            if isinstance(node, (ast.Set, ast.Tuple)) and all(isinstance(each, ast.Constant) for each in node.elts):
                found |= {str(each.value): "human_readable_int" for each in node.elts if isinstance(each, ast.Constant)}
            if isinstance(node, ast.If) and text(node.test) == "name == 'max_model_len'":
                found["max_model_len"] = text(node.body[0]).rpartition(" = ")[2]
        return found

    def member_field(self, name: str, env: Env) -> Field:
        """The field of the class behind SGLang's flags."""
        return self.fields(self.named(env.module, "ServerArgs"))[name]

    def fields(self, cls: Any) -> dict[str, Field]:
        """The fields of a configuration class, those of its bases first; SGLang may keep its own in namespaces."""
        known = isinstance(cls, Cls) and cls.node.name == "ServerArgs"
        spaces = [path for path in self.tree.paths if known and "srt/arg_groups/fields/" in path]
        modules = [path.removesuffix(".py").replace("/", ".") for path in spaces]
        nodes = [(module, node) for module in modules for node in self.tree.names(module).values()]
        sources = [Cls(module, node) for module, node in nodes if isinstance(node, ast.ClassDef)]
        found: dict[str, Field] = {}
        for each in [*reversed(self.mro(cls)), *sources]:
            env = Env(each.module, {}, each)
            for node, after in zip(each.node.body, [*each.node.body[1:], ast.Pass()], strict=True):
                if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                    said = after.value if isinstance(after, ast.Expr) else None
                    doc = str(said.value) if isinstance(said, ast.Constant) else ""
                    default = self.value(node.value, env) if node.value else ...
                    found[node.target.id] = Field(node.annotation, default, doc, env)
        return found

    def hints(self, node: ast.expr, env: Env) -> list[Hint]:
        """The alternatives that an annotation allows."""
        match node:
            case ast.Constant(value=str() as written):
                return self.hints(ast.parse(written, mode="eval").body, env)
            case ast.Constant(value=None):
                return [Hint("None")]
            case ast.BinOp(left=left, right=right):
                return self.hints(left, env) + self.hints(right, env)
            case ast.Subscript():
                return self._generic(node, env)
            case _:
                return self._simple(node, env)

    def _simple(self, node: ast.expr, env: Env) -> list[Hint]:
        name = text(node).rpartition(".")[2].lower()
        if name in {"int", "float", "str", "bool", "dict", *COLLECTIONS}:
            return [Hint(name, ([], env))]
        where, found = self.tree.find(env.module, text(node))
        if isinstance(found, ast.ClassDef):
            return [Hint("class", Cls(where, found))]
        return self.hints(found, Env(where)) if isinstance(found, ast.expr) else [Hint("other")]

    def _generic(self, node: ast.Subscript, env: Env) -> list[Hint]:
        head = text(node.value).rpartition(".")[2].lower()
        elements = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if head in {"optional", "union"}:
            none = [Hint("None")] if head == "optional" else []
            return [hint for each in elements for hint in self.hints(each, env)] + none
        if head in {"annotated", "a", "skipvalidation"}:
            return self.hints(elements[0], env)
        if head == "literal":
            return [Hint("literal", self.value(node, env))]
        return [Hint(head if head in {"dict", *COLLECTIONS} else "other", (elements, env))]

    def typed(self, name: str, hints: list[Hint]) -> dict[str, Any]:
        """What vLLM makes of the annotation of a field."""
        kinds = {hint.kind: hint.inner for hint in hints}
        if any(hint.kind == "class" and re.search(r"\b(config|dataclass)\b", self.bases(hint.inner)) for hint in hints):
            return {"type": "json"}
        if set(kinds) == {"bool", "str", "None"} and "" in self.rules:
            return {"type": "str", "nargs": "?", "const": True}
        if "bool" in kinds:
            return {"action": "BooleanOptionalAction"}
        optional: dict[str, Any] = {"optional": True} if "None" in kinds else {}
        several = next((kind for kind in COLLECTIONS if kind in kinds), None)
        if "literal" in kinds:
            return optional | self._choices(kinds["literal"], known="str" in kinds)
        return optional | (self._several(several, *kinds[several]) if several else self._one(name, kinds))

    def _several(self, kind: str, elements: list[ast.expr], env: Env) -> dict[str, Any]:
        fixed = kind == "tuple" and "..." not in [text(each) for each in elements]
        inner = {hint.kind: hint for hint in self.hints(elements[0], env)} if elements else {}
        made = self.typed("", [inner["str"] if "str" in inner else next(iter(inner.values()), Hint("str"))])
        return made | {"nargs": len(elements) if fixed else "+"}

    def _one(self, name: str, kinds: dict[str, Any]) -> dict[str, Any]:
        number = next((kind for kind in ("int", "float") if kind in kinds), None)
        if number:
            return {"type": (self.rules.get(name) if number == "int" and name else None) or number}
        if "class" in kinds and "dict[" in self.bases(kinds["class"]):
            return {"type": "json"}
        text_too = kinds.keys() & {"str", "class", "other"}
        return {"type": "str" if "dict" not in kinds else "str or json" if text_too else "json"}

    def _choices(self, values: list[Any], *, known: bool) -> dict[str, Any]:
        return {"type": type(values[0]).__name__, "known" if known else "choices": sorted(values)}

    def _literal(self, values: list[Any]) -> str:
        return next((type(each).__name__ for each in values if each is not None), "str")

    def config_kwargs(self, cls: Any) -> dict[str, dict[str, Any]]:
        """How vLLM registers each field of a configuration class."""
        made = {}
        for name, field in self.fields(cls).items():
            typed = self.typed(name, self.hints(field.annotation, field.env))
            made[name] = {"default": field.default, "help": field.doc} | typed
        return made

    def annotated(self, cls: Any) -> None:
        """Register the fields that say, in their annotation, that they are flags of SGLang."""
        for name, field in self.fields(cls).items():
            node = field.annotation
            if not isinstance(node, ast.Subscript) or not isinstance(node.slice, ast.Tuple):
                continue
            about = [each for each in node.slice.elts[1:] if not isinstance(each, ast.Call) or text(each.func) == "Arg"]
            if not about or text(node.value) not in {"A", "Annotated"}:
                continue
            arg, env = about[0], field.env
            said = self.arguments(arg, env)[1] if isinstance(arg, ast.Call) else {"help": self.value(arg, env)}
            if not said.pop("no_cli", False):
                self._annotated(name, field, node.slice.elts[0], said)

    def _annotated(self, name: str, field: Field, annotation: ast.expr, said: dict[str, Any]) -> None:
        spelling = said.pop("cli_name", None) or "--" + name.replace("_", "-")
        made: dict[str, Any] = {"default": field.default, "dest": name}
        kinds = {hint.kind: hint.inner for hint in self.hints(annotation, field.env)}
        several = kinds.get("list") if "type_parser" not in said else None
        if "action" in said:
            made |= said.pop("action_kwargs", None) or {}
        elif several:
            made |= {"type": next((hint.kind for hint in self.hints(several[0][0], several[1])), "str"), "nargs": "+"}
        elif "literal" in kinds:
            made |= {"type": self._literal(kinds["literal"]), "choices": kinds["literal"]}
        elif "bool" in kinds and "type_parser" not in said:
            made["action"] = "store_true"
        else:
            made["type"] = next((kind for kind in ("int", "float") if kind in kinds), "str")
        parser = said.pop("type_parser", None)
        names = [spelling, *(said.pop("aliases", None) or [])]
        self.add(names, made | said | ({"type": parser} if parser is not None else {}))

    def add(self, names: list[Any], settings: dict[str, Any]) -> None:
        """Take note of an argument."""
        spelled = [str(name) for name in names if not isinstance(name, Code)]
        if not spelled:
            return
        first = next((name for name in spelled if name.startswith("--")), spelled[0])
        key = first.lstrip("-")
        row: dict[str, Any] = {"positional": True} if key == first else {}
        row["also"] = [name for name in spelled if name != first]
        action = str(plain(settings.get("action")) or "").removeprefix("= ").rpartition(".")[2]
        if action == "BooleanOptionalAction":
            row |= {"no": list(self._negative(spelled)), "type": "bool"}
        elif action in SWITCHES or (self._bare(settings.get("action")) and "nargs" not in settings):
            row["type"] = "switch"
        else:
            row |= self._value_type(settings.get("type"))
        given = {name: each for name, each in settings.items() if each is not None}
        row |= {each: given[each] for each in ("optional", "nargs", "choices", "known") if each in given}
        default = settings.get("default")
        if default not in (None, ..., "argparse.SUPPRESS", "SUPPRESS") and (row["type"], default) != ("switch", False):
            row["default"] = default
        row |= {each: given[each] for each in ("const", "fallback", "required") if each in given}
        if settings.get("dest", key.replace("-", "_")) != key.replace("-", "_"):
            row["dest"] = settings["dest"]
        if action and action not in {*SWITCHES, "BooleanOptionalAction"}:
            row["action"] = action
        about = re.match(r"\W*(deprecated|[^.]*\bis deprecated)", str(settings.get("help", "")), re.IGNORECASE)
        if settings.get("deprecated") or action.startswith("Deprecated") or about:
            row |= {"deprecated": True, "instead": settings.get("new_flag")}
        self.flags[key] = {name: each for name, each in plain(row).items() if each not in (None, [])}

    def _negative(self, spelled: list[str]) -> Iterator[str]:
        yield from ("--no-" + name[2:] for name in spelled if name.startswith("--"))
        for this, that in (("--enable-", "--disable-"), ("--disable-", "--enable-")) if self.inverse else ():
            yield from (that + name.removeprefix(this) for name in spelled if name.startswith(this))

    def _bare(self, action: Any) -> bool:
        body = action.node.body if isinstance(action, Cls) else []
        made = next((each for each in body if isinstance(each, ast.FunctionDef) and each.name == "__init__"), None)
        if made is None:
            return False
        defaults = dict(
            zip([each.arg for each in reversed(made.args.args)], reversed(made.args.defaults), strict=False)
        )
        return "nargs" in defaults and text(defaults["nargs"]) == "0"

    def _value_type(self, kind: Any) -> dict[str, Any]:
        name = str(plain(kind)).removeprefix("= ") if kind is not None else "str"
        inner = re.fullmatch(r"(?:optional|parse)_type\((.*)\)|nullable_(.*)", name)
        if inner:
            return self._value_type(inner[1] or inner[2]) | {"optional": True}
        if name in {"int", "float", "str", "str or json"}:
            return {"type": name}
        if "json" in name:
            return {"type": "json"}
        return {"type": "int" if re.search(r"\bint|_int", name) and "lambda" not in name else "str", "parser": name}
