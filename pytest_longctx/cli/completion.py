"""
``longctx --print-completion``: a shell's completion of commands, options and files.

The script is written once and contains what the parser knows, so a TAB starts no Python.
"""

from argparse import Action, ArgumentParser, Namespace, _SubParsersAction
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from pytest_longctx.errors import UsageError

SHELLS: Final = ("bash", "zsh", "tcsh")


class PrintCompletion(Action):
    """
    Option that prints the completion of the parser for a shell, and exits. Raises `UsageError` if shtab is not
    installed.
    """

    def __call__(
        self,
        parser: ArgumentParser,
        namespace: Namespace,  # noqa: ARG002 - argparse gives it
        values: str | Sequence[Any] | None,
        option_string: str | None = None,  # noqa: ARG002
    ) -> None:
        print(script(parser, str(values)), end="")
        parser.exit()


def add(parser: ArgumentParser) -> None:
    """Add the option ``--print-completion`` to the console parser."""
    parser.add_argument(
        "--print-completion", action=PrintCompletion, choices=SHELLS, help="print the completion of a shell, and exit"
    )


def script(parser: ArgumentParser, shell: str) -> str:
    """Return the completion of *parser* for *shell*. Raises `UsageError` if shtab is not installed."""
    try:
        import shtab  # noqa: PLC0415 - an extra
    except ImportError:
        raise UsageError("--print-completion: install shtab, with pip install 'pytest-longctx[completion]'") from None
    for action in _actions(parser):
        if action.type is Path:
            action.complete = shtab.FILE  # type: ignore[attr-defined] # where shtab looks for it
    return str(shtab.complete(parser, shell))


def _actions(parser: ArgumentParser) -> Iterator[Action]:
    """Yield every argument of *parser* and of its subcommands."""
    for action in parser._actions:  # noqa: SLF001 - argparse has no public list
        yield action
        if isinstance(action, _SubParsersAction):
            for below in action.choices.values():
                yield from _actions(below)
