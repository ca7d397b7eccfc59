"""Masking of secrets in all written output."""

import re
from collections.abc import Iterable, Mapping

_SECRET_NAME = re.compile(r"(TOKEN|KEY|SECRET|PASSWORD|PASSWD|CREDENTIAL)S?$", re.IGNORECASE)
_SECRET_FLAG = re.compile(r"--[\w-]*(api[-_]key|token|secret|password)", re.IGNORECASE)
_URL_CREDENTIALS = re.compile(r"(?<=:)//[^/\s@]+@")

HIDDEN = "***"


def secret_values(env: Mapping[str, str], argv: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the values in *env* and *argv* that must be masked, longest first."""
    values = {value for name, value in env.items() if _SECRET_NAME.search(name)}
    flag_before = ""
    for word in argv:
        flag, _, value = word.partition("=")
        if _SECRET_FLAG.fullmatch(flag) and value:
            values.add(value)
        elif _SECRET_FLAG.fullmatch(flag_before) and not word.startswith("--"):
            values.add(word)
        flag_before = word
    # Very short values are no secrets, and masking them would damage other text.
    return tuple(sorted((value for value in values if len(value) > 3), key=len, reverse=True))


def masked(text: str, secrets: Iterable[str]) -> str:
    """
    Return *text* with every secret and the credentials of every URL masked.

    >>> masked("Bearer hunter2", ["hunter2"])
    'Bearer ***'
    """
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    return _URL_CREDENTIALS.sub(f"//{HIDDEN}@", text)
