"""
Recognise quoted text in a line: a prompt, an answer, a dump of arguments, a typed command, a string inside a message.

Quoted text is not a statement of the server that logged it.
"""

import re

_REQUEST = re.compile(
    r"Received request |Request \S+ details|Generated response|(?:Receive|Finish): obj="
    r"|(?:Generate|Embedding)ReqInput\(|CompletionRequest\("
    r"""|\b(?:prompt|text|output|content|messages?|stop|body|input|query)['"]?\s?[:=] ?(?:\[|\{|b?['"])"""
)
"""Words before the text of a request."""
_DUMP = re.compile(
    r"non-default args|server_args=|ServerArgs\(|Namespace\(|\bargs: |with config: |Args\(|Config\(\w+=|[Cc]hat[ _]template"
    r"|\bArgs \{|\bargv\b|[Cc]ommand(?: line)?: |SchedulerOutput\(|environment: |\benv: |kwargs="
)
"""Words before a dump of arguments or of a configuration."""
_COMMENT = re.compile(r"(?:#+ |\$ |\+ \w|> |== |>>> |\* |[-•] |\| |usage: )")
"""Beginnings of lines that a person or a shell wrote."""
_REPR = re.compile(
    r"[\w.]*(?:Error|Exception)\($|^KeyError: $|\bpanicked at $|(?:`Err` value|^Error): (?:\w+\()*$"
    r"|\b(?:CUDA|HIP) error \S+:\d+ $|\bOs \{ code: \d+, kind: \w+, message: $"
)
"""Text before a string that is the statement itself: an exception's ``repr``, a panic of Rust."""
_PANIC = re.compile(r"^thread '[^']*' (?:\(\d+\) )?panicked at |^called `\w+::\w+\(\)` on |\bOs \{ code: \d+, ")
"""A panic of Rust and the error in it, whose parts look like a request's."""
_MEMBER = re.compile(r'\s*"(?:message|reason|note|status)": "')
"""The beginning of a line of a pretty-printed object of Kubernetes or Docker."""


def is_comment(text: str) -> bool:
    """Return whether *text*, a log line without a prefix, quotes a comment, a typed command or a help text."""
    return _COMMENT.match(text) is not None


def is_request(text: str) -> bool:
    """Return whether the log line *text* quotes a request or an answer."""
    return _REQUEST.search(text) is not None


def quoted(text: str, at: int) -> bool:
    """
    Return whether the text at position *at* of the log line *text* is quoted.

    >>> quoted("args: {'name': 'out of memory'}", 16), quoted("it couldn't start: out of memory", 19)
    (True, False)
    """
    before = text[:at]
    asked = _REQUEST.search(before) is not None and _PANIC.search(before) is None
    return asked or _DUMP.search(before) is not None or in_string(text, at)


def reports(text: str, start: int, end: int) -> bool:
    """
    Return whether the kernel, Kubernetes or a container itself states the part of the log line from *start* to *end*.

    A key of an object ends outside its quotation marks, and is a statement.

    >>> reports('"OOMKilled": true,', 1, 17), reports("output: 'Reason: OOMKilled'", 9, 26)
    (True, False)
    """
    before = text[:start]
    if _MEMBER.match(text):
        return True
    if _REQUEST.search(before) is not None or _DUMP.search(before) is not None:
        return False
    return not (in_string(text, start) and in_string(text, end))


def in_string(text: str, at: int) -> bool:
    """
    Return whether the position *at* is in a quoted string of a log line, other than the ``repr`` of an exception or of
    a panic.
    """
    opened = ""
    opened_at = 0
    for index in range(min(at, len(text))):
        mark = text[index]
        if mark not in "'\"":
            continue
        if opened:
            if (
                mark == opened
                and (mark == '"' or not text[index + 1 : index + 2].isalnum())
                and text[index - 1] != "\\"
            ):
                opened = ""
        elif mark == '"' or not text[index - 1 : index].isalnum():
            opened, opened_at = mark, index
    return bool(opened) and not _REPR.search(text[:opened_at])
