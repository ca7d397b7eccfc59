"""
The options, each declared once in a table from which the flags, the ini keys and the reference page are made.

Every pytest run of an environment imports this module, so it must import fast. It uses no slots, which take longer to
create, and imports errors on use.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import pytest


class Option(NamedTuple):
    """One setting: a flag, and an ini key with the same meaning. The flag takes precedence."""

    name: str
    metavar: str | None
    help: str
    flag: str = ""
    """The flag, if it is not ``--longctx-NAME``."""

    @property
    def long(self) -> str:
        """The option's flag as typed on the command line."""
        return self.flag or f"--longctx-{self.name}"

    @property
    def key(self) -> str:
        """The option's ini key, which is also the flag's name in pytest's namespace."""
        return f"longctx_{self.name.replace('-', '_')}"


OPTIONS = (
    Option(
        "backend",
        "NAME",
        "the engine: vllm, vllm-cpu, vllm-neuron, sglang, transformers, openai, miniature, or a plugin's",
        flag="--backend",
    ),
    Option(
        "launcher",
        "KIND",
        "how to start or reach the engine: process (default), docker, kubernetes, or url:http://HOST:PORT for a running server",
    ),
    Option(
        "deployment", "NAME", "select deployments: names, patterns such as 'cpu-*', or TOML files, separated by commas"
    ),
    Option("data", "DIR", "a folder with your own findings/ and deployments/; separate several with commas"),
    Option("python", "PATH", "the Python interpreter in which the engine is installed, for the process launcher"),
    Option("hardware", "NxKIND", "the hardware of the server, such as 8xH200; default: detected on this machine"),
    Option("results", "DIR", "the folder for results.jsonl and server logs; default: results"),
    Option("report", "FILE", "also write the results as one HTML page"),
    Option(
        "junit-properties",
        "WHERE",
        "the level of the verdicts in JUnit XML: test (default), or suite for readers that require the xunit2 schema",
    ),
    Option("baseline", "FILE", "an earlier results.jsonl with which --longctx-fail-on compares this run"),
    Option(
        "fail-on",
        "MEASURE:N%",
        "a finding is broken if a figure is worse than its baseline by more than this, for example ttft_s:10%",
    ),
    Option(
        "resume",
        "PATH",
        "an earlier results.jsonl, or its folder: keep its verdicts that were reached under the same conditions",
    ),
    Option(
        "shard", "K/N", "run only part K of N, split by deployment; K/N:FILE balances by the times in a results.jsonl"
    ),
    Option("seed", "N", "the seed of every prompt; default: a new one each run, recorded in the results"),
    Option("load", "NAME", "the tool that sends loads: this package (default), vllm-bench, guidellm or aiperf"),
    Option(
        "certify",
        "WORDS",
        "arguments of longctx certify for the suite certificate, as in '--model NAME --claim 1M --budget 2M --yes'",
    ),
    Option("plan", None, "print what would run, what would fit and how long it would take; boot nothing"),
    Option("strict", None, "fail a test whose evidence is missing instead of skipping it; default: on if CI is set"),
    Option("github", None, "annotations and a step summary for GitHub Actions; default: on if GITHUB_ACTIONS is set"),
    Option("allow-unjudged", None, "let a run pass that judges no finding"),
    Option("allow-busy-gpu", None, "boot even if another process uses memory of the selected GPUs"),
)


_SEED_DIGITS = 20
_OF_A_RUN = ("seed", "results", "report", "junit-properties", "plan", "resume", "shard", "github")


@dataclass(frozen=True)
class Options:
    """The values of all settings. A flag overrides the ini key, which overrides the default."""

    backend: str | None = None
    launcher: str = "process"
    deployments: tuple[str, ...] = ()
    data: tuple[Path, ...] = ()
    python: Path | None = None
    hardware: str | None = None
    results: Path = Path("results")
    report: Path | None = None
    junit_properties: str = "test"
    baseline: Path | None = None
    fail_on: str = ""
    resume: Path | None = None
    shard: str = ""
    seed: int | None = None
    load: str | None = None
    certify: str = ""
    plan: bool = False
    strict: bool = False
    github: bool = False
    allow_unjudged: bool = False
    allow_busy_gpu: bool = False


def add(parser: "pytest.Parser") -> None:
    """Declare every option to pytest as a flag and an ini key."""
    group = parser.getgroup("longctx", "long-context serving findings (pytest-longctx)")
    for option in OPTIONS:
        # A switch is a Boolean, so that TOML may say `true`; everything else is text.
        if option.metavar:
            parser.addini(option.key, option.help, type="string", default="")
        else:
            parser.addini(option.key, option.help, type="bool", default="")
        shown = option.help.replace(
            "%", "%%"
        )  # argparse formats the help of a flag; pytest prints the help of an ini key unchanged
        if option.metavar is None:
            group.addoption(option.long, dest=option.key, action="store_const", const="true", help=shown)
        else:
            group.addoption(option.long, dest=option.key, metavar=option.metavar, help=shown)


def fold(config: "pytest.Config") -> Options:
    """Return every option from flags and ini keys as `Options`. Raises `UsageError`."""
    given = {option.name: _value(config, option) for option in OPTIONS}
    here = config.invocation_params.dir
    return Options(
        backend=given["backend"] or None,
        launcher=given["launcher"] or "process",
        deployments=_several(given["deployment"]),
        data=tuple(_place(config, "data", folder) for folder in _several(given["data"])),
        python=Path(given["python"]).expanduser() if given["python"] else None,
        hardware=given["hardware"] or None,
        results=_place(config, "results", given["results"]) if given["results"] else here / "results",
        report=_place(config, "report", given["report"]) if given["report"] else None,
        junit_properties=given["junit-properties"] or "test",
        baseline=_place(config, "baseline", given["baseline"]) if given["baseline"] else None,
        fail_on=given["fail-on"],
        resume=_place(config, "resume", given["resume"]) if given["resume"] else None,
        shard=given["shard"],
        seed=_seed(given["seed"]),
        load=given["load"] or None,
        certify=given["certify"],
        plan=_switch("plan", given["plan"], default=False),
        strict=_switch("strict", given["strict"], default=bool(os.environ.get("CI"))),
        github=_switch("github", given["github"], default=bool(os.environ.get("GITHUB_ACTIONS"))),
        allow_unjudged=_switch("allow-unjudged", given["allow-unjudged"], default=False),
        allow_busy_gpu=_switch("allow-busy-gpu", given["allow-busy-gpu"], default=False),
    )


def repeated(config: "pytest.Config") -> list[str]:
    """
    Return the options of this run as typed words that work in any folder, without the seed and without options of the
    whole run.
    """
    words = []
    for option in OPTIONS:
        value = _value(config, option)
        if not value or option.name in _OF_A_RUN:
            continue
        if option.metavar is not None:
            words.append(f"{option.long}={_anywhere(config, option.name, value)}")
        elif _switch(option.name, value, default=False):
            words.append(option.long)
    return words


def _anywhere(config: "pytest.Config", name: str, text: str) -> str:
    """Return the option's value *text* with its paths made absolute."""
    if name in ("data", "baseline"):
        return ",".join(str(_place(config, name, part)) for part in _several(text))
    if name == "python":
        return str(config.invocation_params.dir / Path(text).expanduser())
    if name == "deployment":
        here = config.invocation_params.dir
        return ",".join(str(here / part) if part.endswith(".toml") else part for part in _several(text))
    return text


def in_use(config: "pytest.Config") -> bool:
    """Return whether a backend is selected. Without a backend, the plugin does nothing."""
    return bool(_value(config, OPTIONS[0]))


def _value(config: "pytest.Config", option: Option) -> str:
    flag = config.getoption(option.key)
    if flag is not None:
        return str(flag).strip()
    try:
        return str(config.getini(option.key)).strip()
    except (ValueError, TypeError) as problem:  # pytest's own text names no key
        from pytest_longctx.errors import UsageError

        raise UsageError(f"{option.key}: {problem}") from None


def _place(config: "pytest.Config", name: str, text: str) -> Path:
    """
    Return the path in the value of an option: relative to pytest's start folder if typed, to the project's root if from
    the ini file.
    """
    typed = config.getoption(f"longctx_{name}") is not None
    return (config.invocation_params.dir if typed else config.rootpath) / Path(text).expanduser()


def _several(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _seed(text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= _SEED_DIGITS):
        from pytest_longctx.errors import UsageError

        raise UsageError(f"--longctx-seed: {text!r} must be a whole number of at most {_SEED_DIGITS} digits")
    return int(text)


def _switch(name: str, text: str, *, default: bool) -> bool:
    words = {
        "": default,
        "true": True,
        "1": True,
        "yes": True,
        "on": True,
        "false": False,
        "0": False,
        "no": False,
        "off": False,
    }
    if text.lower() not in words:
        from pytest_longctx.errors import UsageError

        raise UsageError(f"longctx_{name.replace('-', '_')}: {text!r} must be true or false")
    return words[text.lower()]
