"""Secrets stay out of everything that is written."""

import re
from collections.abc import Iterable, Mapping

_SECRET_NAME = re.compile(r"(TOKEN|KEY|SECRET|PASSWORD|PASSWD|CREDENTIAL)S?$", re.IGNORECASE)
_SECRET_FLAG = re.compile(r"--[\w-]*(api[-_]key|token|secret|password)", re.IGNORECASE)
_URL_CREDENTIALS = re.compile(r"(?<=:)//[^/\s@]+@")

HIDDEN = "***"


def secret_values(env: Mapping[str, str], argv: Iterable[str] = ()) -> tuple[str, ...]:
    """The values in *env* and *argv* that must not be shown, longest first."""
    values = {value for name, value in env.items() if _SECRET_NAME.search(name)}
    flag_before = ""
    for word in argv:
        flag, _, value = word.partition("=")
        if _SECRET_FLAG.fullmatch(flag) and value:
            values.add(value)
        elif _SECRET_FLAG.fullmatch(flag_before) and not word.startswith("--"):
            values.add(word)
        flag_before = word
    # Very short values would blot out innocent text, and are no secrets.
    return tuple(sorted((value for value in values if len(value) > 3), key=len, reverse=True))


def masked(text: str, secrets: Iterable[str]) -> str:
    """
    *text* with every secret blotted out, and the credentials of every URL in it.

    >>> masked("Bearer hunter2", ["hunter2"])
    'Bearer ***'
    """
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    return _URL_CREDENTIALS.sub(f"//{HIDDEN}@", text)
