"""
Filter foreign text before it is written: mask secrets, and make the text of a server or a log safe to print.

`masked` hides secrets in every form in which a server, a shell or Python repeats them. `shown` also makes control
characters visible, and prevents CI systems from reading a line as a command. All output uses one of them: terminal,
JUnit XML, results, HTML, annotations, boot logs and the command that repeats a boot.
"""

import html
import json
import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, quote_plus, unquote

from pytest_longctx.errors import UsageError

_SECRET_NAME = re.compile(r"(TOKEN|KEY|SECRET|PASSWORD|PASSWD|CREDENTIAL)S?$", re.IGNORECASE)
_SECRET_FLAG = re.compile(r"--[\w-]*(api[-_]key|token|secret|password)", re.IGNORECASE)
_URL_CREDENTIALS = re.compile(r"(?<=:)//[^/\s\"'<>]+@")
_URL_KEY = re.compile(
    r"([?&](?:[\w-]*(?:key|token|secret|password|passwd|signature)|sig|auth)=)[^&#\s\"'<>]+", re.IGNORECASE
)
_VALUE = r"""[^\s"'\\,;\])}>$<{*%\[-][^\s"'\\,;\])}>]{7,}"""
"""A value in text: 8 characters or more, and neither a variable, a placeholder nor a flag."""
_QUOTE = r"""(?:\\*["'])?"""
_IN_TEXT = tuple(
    re.compile(pattern)
    for pattern in (
        # A field of an object, a header, or an argument as an engine's log writes it, also a list: api_key=['...']
        (
            rf"(?i)((?:api[-_]?key|(?:auth|access|hf)[-_]token|passwd|password|client[-_]secret|authorization)s?{_QUOTE}"
            rf"[ \t]?[=:][ \t]?{_QUOTE}(?:bearer |basic )?)(?:\[[^\]\n]{{8,500}}\]|{_VALUE})"
        ),
        rf"(?i)((?<![\w-])--(?:[a-z]+[-_]){{0,4}}(?:api[-_]key|token|secret|password)[ \t]{_QUOTE}){_VALUE}",
        rf"(\b[A-Z][A-Z0-9_]{{0,60}}_(?:TOKEN|API_KEY|ACCESS_KEY|SECRET|PASSWORD)={_QUOTE}){_VALUE}",
        r"(?i)(\bbearer )(?=[^\s\d]*\d)[\w.~+/=-]{8,}",
        r"()\b(?:hf_[A-Za-z0-9]{30,}|sk-[\w-]{20,}|nvapi-[\w-]{20,}|gh[opsu]_[A-Za-z0-9]{30,})",
        r"()\beyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{10,}",  # of a service account of Kubernetes
        rf"(\"auth\\*\"[ \t]?:[ \t]?{_QUOTE})[A-Za-z0-9+/=]{{8,}}",  # of Docker's config.json
    )
)
"""Secrets that are recognised in text alone: by the name before them, or by their form."""
_HINTS = (
    *("api_key", "api-key", "apikey", "auth_token", "auth-token", "access_token", "access-token", "hf_", "hf-token"),
    *("passw", "secret", "authorization", "bearer ", "sk-", "_token=", "_access_key=", "-token ", "--token"),
    *("nvapi-", "gho_", "ghp_", "ghs_", "ghu_", "eyj", '"auth'),
)
"""Text without any of these parts has no match of `_IN_TEXT`. Logs are large, and this search is faster."""

HIDDEN = "***"
_SHORTEST: Final = 4
"""Shorter values are not secrets. Masking them would damage other text."""
_SHORTEST_KNOWN: Final = 8
"""The same limit for secrets that are masked in all text of the process, not only in the text of their server."""
_SHORTEST_CORE: Final = 10
"""Letters of a Base64 form that must remain after those that depend on its neighbours are cut off."""

_SHORTEST_PIECE: Final = 6
"""Least length of a piece of a secret at the end of a line, before a quote or beside dots."""

_LONGEST_LINE: Final = 2**20

_KNOWN: dict[str, None] = {}


def remember(secrets: Iterable[str]) -> None:
    """Mask *secrets* from now on in all output of this process. Values of fewer than 8 characters are ignored."""
    _KNOWN.update(dict.fromkeys(secret for secret in secrets if len(secret.strip()) >= _SHORTEST_KNOWN))


def forget() -> None:
    """Forget every masked secret, for tests that have their own secrets."""
    _KNOWN.clear()


def secret_values(env: Mapping[str, str], argv: Iterable[str] = ()) -> tuple[str, ...]:
    """
    Return the secret values in *env* and *argv* that must be masked, longest first.

    A login in an address is a secret, whatever the name of its variable is.
    """
    values = {value for name, value in env.items() if _SECRET_NAME.search(name)}
    values |= {part for value in env.values() for part in passwords(value)}
    flag_before = ""
    for word in argv:
        flag, _, value = word.partition("=")
        if _SECRET_FLAG.fullmatch(flag) and value:
            values.add(value)
        elif _SECRET_FLAG.fullmatch(flag_before) and not word.startswith("--"):
            values.add(word)
        flag_before = word
    return tuple(sorted((value for value in values if len(value) >= _SHORTEST), key=len, reverse=True))


def passwords(address: str) -> Iterator[str]:
    """
    Yield the password of each URL in *address*, or the text in its place, both as written and as sent.

    >>> sorted(passwords("http://me:p%40ss@word@proxy:3128"))
    ['p%40ss@word', 'p@ss@word']
    """
    for found in _URL_CREDENTIALS.finditer(address) if "@" in address else ():
        login = found[0][2:-1]
        password = login.partition(":")[2] or login
        yield from {password, unquote(password)}


def checked_key(key: str | None, variable: str) -> str | None:
    """
    Return the secret *key* of the environment *variable*; None if it is empty. Raises `UsageError` if no HTTP header
    can contain it.
    """
    if not key:
        return None
    wrong = (
        "ends in a line end"
        if key.rstrip("\r\n") == key.strip() != key
        else "has characters that no HTTP header can have"
    )
    if not all("!" <= letter <= "~" for letter in key):
        raise UsageError(
            f"{variable}: the key {wrong} (only visible ASCII characters are allowed; {len(key)} characters were given)\n"
            f"  try      {variable}=\"$(tr -d '\\r\\n ' < FILE)\", where FILE has the key"
        )
    return key


def masked(text: str, secrets: Iterable[str] = ()) -> str:
    """
    Return *text* with all secrets masked: known secrets, credentials and keys in URLs, and values that the text itself
    names as keys.

    Secrets are *secrets* and the values given to `remember`, in all their forms: as they are, quoted for a shell, as Python and
    JSON escape them, percent-encoded, escaped for HTML, in hexadecimal, and in Base64 at any offset; also if a line ends within
    one of these.

    >>> masked("Bearer hunter2", ["hunter2"])
    'Bearer ***'
    >>> masked("http://me:p@ss@host/?api_key=abc&n=1")
    'http://***@host/?api_key=***&n=1'
    >>> masked("args: {'api_key': ['abcdefgh'], 'max_tokens': 8} and --api-key abcdefgh")
    "args: {'api_key': ***, 'max_tokens': 8} and --api-key ***"
    """
    known = tuple(dict.fromkeys((*secrets, *_KNOWN)))
    for form in _forms_of(known):
        if form in text:
            text = text.replace(form, HIDDEN)
    if cut := _cut_forms(known):
        pieces = _pieces_of(cut)
        for edges in _EDGES:
            text = "".join(_without_pieces(part, cut, pieces) for part in edges.split(text))
    text = _URL_KEY.sub(rf"\1{HIDDEN}", _URL_CREDENTIALS.sub(f"//{HIDDEN}@", text))
    plain = text.lower()
    for pattern in _IN_TEXT if any(hint in plain for hint in _HINTS) else ():
        text = pattern.sub(rf"\1{HIDDEN}", text)
    return text


@lru_cache(maxsize=64)
def _forms_of(secrets: tuple[str, ...]) -> tuple[str, ...]:
    """Return every written form of *secrets* to mask, longest first."""
    parts = {part for secret in secrets for part in (secret, secret.strip(), *_long_lines(secret))}
    forms = {form for part in parts if len(part) >= _SHORTEST for form in _forms(part)}
    return tuple(sorted((form for form in forms if len(form) >= _SHORTEST), key=len, reverse=True))


_EDGES: Final = tuple(
    re.compile(pattern)
    for pattern in (r"([\n\u2500-\u257f|]+)", r"(\u2026|\.\.\.|\\[nr])", r"('+)", r"(`+)", r"""(\\*"+)""")
)
"""
Where a program breaks a long line, also within a drawn box, and where a text that was cut ends or begins. Each for itself,
because a secret may have quotes.
"""


def _without_pieces(part: str, forms: tuple[str, ...], pieces: frozenset[str]) -> str:
    """
    Return *part* of a text, from one edge to the next, without the start of a secret at its end and the end of a secret
    at its start. The missing piece is beyond the edge, or was cut off.
    """
    inner, size = part.strip(), _SHORTEST_PIECE
    if not (inner[:size] in pieces or inner[-size:] in pieces):
        return part
    before, after = part[: len(part) - len(part.lstrip())], part[len(part.rstrip()) :]
    if len(inner) >= _SHORTEST_KNOWN and len(set(inner)) >= _LETTERS and any(inner in form for form in forms):
        return f"{before}{HIDDEN}{after}"
    begins = max(_shared(form, inner, size, at_end=True) for form in forms)
    inner = f"{HIDDEN}{inner[begins:]}" if begins else inner
    ends = max(_shared(form, inner, size, at_end=False) for form in forms)
    inner = f"{inner[:-ends]}{HIDDEN}" if ends else inner
    return f"{before}{inner}{after}"


def _shared(form: str, text: str, least: int, *, at_end: bool) -> int:
    """
    Return the number of letters that both end *form* and begin *text* (with *at_end*), or both begin *form* and end
    *text*.
    """
    for size in range(min(len(form) - 1, len(text)), least - 1, -1):
        piece = form[-size:] if at_end else form[:size]
        if (text.startswith(piece) if at_end else text.endswith(piece)) and len(set(piece)) >= _LETTERS:
            return size
    return 0


_LETTERS: Final = 3
"""Fewest different letters of a piece. Fewer are a drawn line."""


@lru_cache(maxsize=64)
def _cut_forms(secrets: tuple[str, ...]) -> tuple[str, ...]:
    """
    Return the forms of those *secrets* whose pieces are masked. Pieces of a path or an address occur in ordinary text
    too.
    """
    return _forms_of(tuple(each for each in secrets if not _PLACE.match(each) and len(each) >= _SHORTEST_KNOWN))


_PLACE: Final = re.compile(r"[/~.]|[a-z+]{2,9}://")


@lru_cache(maxsize=64)
def _pieces_of(forms: tuple[str, ...]) -> frozenset[str]:
    """
    Return every piece of *forms* of the smallest masked size. Most text has none at its edges and needs no longer
    search.
    """
    size = _SHORTEST_PIECE
    return frozenset(form[at : at + size] for form in forms for at in range(len(form) - size + 1))


def _long_lines(secret: str) -> Iterator[str]:
    """
    Yield the long lines of a secret of several lines, such as a PEM file. Each line is masked, because a log shows
    single lines.
    """
    lines = secret.splitlines()
    yield from (line for line in lines if len(lines) > 1 and len(line) >= 2 * _SHORTEST_KNOWN)


def _forms(secret: str) -> Iterator[str]:
    raw = secret.encode("utf-8", "surrogateescape")
    yield secret
    yield secret.replace("'", "'\"'\"'")  # as shlex.quote does
    yield from (repr(secret)[1:-1], ascii(secret)[1:-1], repr(raw)[2:-1], str(secret.encode("unicode_escape"))[2:-1])
    for ensure_ascii in (True, False):
        once = json.dumps(secret, ensure_ascii=ensure_ascii)[1:-1]
        yield from (once, once.replace("/", "\\/"), json.dumps(once, ensure_ascii=ensure_ascii)[1:-1])
    for percent in (quote(raw, safe=""), quote(raw), quote_plus(raw), quote_plus(raw, safe="/")):
        yield from (percent, re.sub("%..", lambda found: found[0].lower(), percent))
    yield from (
        html.escape(secret),
        html.escape(secret, quote=False),
        secret.replace("&", "&amp;").replace('"', "&quot;"),
    )
    yield from (raw.hex(), raw.hex().upper())
    for encode in (b64encode, urlsafe_b64encode):
        for offset in range(3):
            # The first letters and the last depend on the bytes beside the secret, as in "user:secret".
            core = encode(b"\0" * offset + raw).decode().rstrip("=")
            cut = core[(0, 2, 3)[offset] : len(core) - (0 if (offset + len(raw)) % 3 == 0 else 1)]
            if len(cut) >= _SHORTEST_CORE:
                yield cut


_RAW: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff\ufffe\uffff]"
)
"""Control characters except tab and line feed, characters that reorder or hide text, line ends of Unicode, lone surrogates."""
_COMMAND: Final = re.compile(r"^([^\S\n]*)::", re.MULTILINE)
"""A workflow command of GitHub Actions, at the start of a line."""
_LOGGING_COMMAND: Final = re.compile(r"##(?=[\w-]*\[)")
"""A command of GitHub's older form, of Azure Pipelines or of TeamCity, anywhere in a line."""


def shown(text: str, secrets: Iterable[str] = ()) -> str:
    r"""
    Return foreign *text* in a form that may be written: masked, without raw control characters, and without commands of
    a CI system.

    >>> shown("\x1b[31mred\r\n::error::x")
    '\\x1b[31mred\n\\::error::x'
    """
    text = masked(text, secrets).replace("\r\n", "\n")
    plain = _RAW.sub(_visible, text)
    if plain != text:  # what a control character has cut off from its name
        plain = masked(plain, secrets)
    return _LOGGING_COMMAND.sub(r"#\\#", _COMMAND.sub(r"\1\\::", plain))


def _visible(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def cleaned(value: Any, secrets: Iterable[str] = ()) -> Any:
    """Return the JSON *value* with each string as `shown` returns it, and without numbers that are not finite."""
    if isinstance(value, str):
        return shown(value, secrets)
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, Mapping):
        sound = {name: each for name, each in value.items() if not isinstance(each, float) or each - each == 0}
        return {shown(str(name), secrets): cleaned(each, secrets) for name, each in sound.items()}
    return [cleaned(each, secrets) for each in value] if isinstance(value, list | tuple) else value


def private(path: Path) -> None:
    """
    Create the file at *path*, or restrict it to its user, because another program writes secrets to it until
    `mask_file`.
    """
    path.touch(mode=0o600)
    path.chmod(0o600)


def mask_file(path: Path, secrets: Iterable[str] = ()) -> None:
    """
    Mask secrets in a file that another program wrote, such as an engine's log, and give it the usual mode.

    It is read some lines at a time, because it may be large. If the disk is full, a file with a secret is removed.
    """
    copy, changed = path.with_name(f".{path.name}.masked"), False
    try:
        with (
            path.open(encoding="utf-8", errors="surrogateescape", newline="") as before,
            copy.open("w", encoding="utf-8", errors="surrogateescape", newline="") as after,
        ):
            while block := before.read(_LONGEST_LINE):
                block += before.readline(_LONGEST_LINE)
                plain = masked(block, secrets)
                changed = changed or plain != block
                after.write(plain)
        copy.replace(path)
    except OSError:
        copy.unlink(missing_ok=True)
        if changed:
            path.unlink(missing_ok=True)
