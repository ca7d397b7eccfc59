"""Read a growing log, line by line or in blocks, with constant memory."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from pytest_longctx.diagnosis.boot_state import Boot, Failure, FirstError, chosen, rooted
from pytest_longctx.diagnosis.catalogue_index import index_of
from pytest_longctx.diagnosis.line_shapes import LineShapes
from pytest_longctx.diagnosis.log_evidence import LogEvidence
from pytest_longctx.diagnosis.parsing import quoting
from pytest_longctx.diagnosis.parsing.colours import block_without_colours, without_colours
from pytest_longctx.diagnosis.parsing.outer_prefixes import OuterPrefixes
from pytest_longctx.diagnosis.parsing.records import Record, plain, records
from pytest_longctx.diagnosis.roles import complains, counts, is_exception, noticed
from pytest_longctx.diagnosis.signatures import Benign, Catalogue, Fact, Phase, Signature, figures, words
from pytest_longctx.diagnosis.tracebacks import (
    CHAINED,
    ENDS_IN,
    EXCEPTION,
    FRAME,
    GROUP,
    HEADER,
    INDENTED,
    Trace,
    joined,
    worded,
)
from pytest_longctx.toml import in_range

_SERVING = ("serve", "request", "stop")
_MESSAGE_LINES = 40
"""Most lines of an exception's message."""
_TRACE_LINES = 2000
"""Most lines of a traceback. After that many lines, another process must have overwritten its end."""


class LogReader:
    """
    Reader of the figures, phases and failures in the log of one deployment. *version* is the engine's; None takes it
    from the log.
    """

    def __init__(self, catalogue: Catalogue, version: str | None = None) -> None:
        self.catalogue, self.version = catalogue, version
        self.boots: dict[str, Boot] = {}
        self.earlier: dict[str, list[Boot]] = {}
        """The boots before the last one, by their source."""
        self.evidence = LogEvidence()
        self.lines = 0
        self.cut = False
        """Whether the current line has no line feed: the log is cut there or still being written."""
        self._index = index_of(catalogue)
        self._shapes = LineShapes(self._matter, self._may_matter)
        self._outer = OuterPrefixes()

    @property
    def boot(self) -> Boot:
        """
        The boot in the log to report: the last of the engine's container. If one of several sources failed, the boot of
        that source.
        """
        if not self.boots:
            self.boots[""] = Boot()
        return chosen(self.boots, self.earlier)

    @property
    def figures(self) -> dict[str, float]:
        """Figures in the log of the boot."""
        return self.boot.figures

    @property
    def words(self) -> dict[str, str]:
        """Named facts in the log of the boot, such as the attention backend."""
        return self.boot.words

    @property
    def phase(self) -> Phase:
        """The phase that the boot has reached so far."""
        return self.boot.phase

    @property
    def errors(self) -> FirstError:
        """The first error in the log of the boot."""
        return self.boot.errors

    @property
    def notices(self) -> Counter[str]:
        """The count of each benign line in the log, by its id."""
        return self.boot.notices

    @property
    def cause(self) -> Failure | None:
        """
        The kernel's or the driver's line about a hardware fault, else the log line that names the cause; None without
        either.
        """
        return rooted(self.boots, self.boot) or self.boot.cause

    @property
    def summary(self) -> Failure | None:
        """The first log line that reports a failure without its cause; None without such a line."""
        return self.boot.summary

    @property
    def failure(self) -> Failure | None:
        """The failure in the log: its cause or, without one, the summary; None without both."""
        return self.cause or self.summary

    @property
    def fatal(self) -> bool:
        """Whether the log has a line that the engine, by its source, does not survive."""
        return self.boot.fatal_at is not None

    def benign(self) -> Iterator[tuple[Benign, int]]:
        """Yield the benign lines in the log, each with its count."""
        for entry in self.catalogue.benign:
            if self.notices[entry.id]:
                yield entry, self.notices[entry.id]

    def told(self) -> dict[str, str]:
        """Return the named facts in the log, with the ids of the benign lines under ``notices``."""
        seen = ", ".join(entry.id for entry, _ in self.benign())
        return {**self.words, "notices": seen} if seen else dict(self.words)

    def read(self, block: bytes) -> None:
        """Read a block of whole log lines, as `Lines` makes them."""
        block, before = block_without_colours(block), self.lines
        for number, line, times in self._shapes.due(block, self._attentive):
            self.lines = before + number
            self._feed(line.decode("utf-8", "replace"), times)
        self.lines = before + block.count(b"\n")

    def read_rest(self, block: bytes) -> None:
        """Read the last line of a log that ends without a line feed."""
        self.cut = True
        self.read(block)
        self.cut = False

    def _attentive(self) -> int:
        """Return how closely the next log line must be read: the highest value over all boots."""
        return max((boot.attention(self.lines) for boot in self.boots.values()), default=0)

    def _matter(self, lines: Sequence[bytes]) -> list[bool]:
        """Return whether each of *lines* must be read: an entry of the catalogue may match it, or it may be a first error."""
        found = self._index.matched([plain(line) for line in lines])
        new = not all(boot.errors.complaint for boot in self.boots.values() or [Boot()])
        return [at in found or (new and b"ERROR" in line) for at, line in enumerate(lines)]

    def _may_matter(self, piece: bytes) -> bool:
        """Return whether a *piece* of the log must be read, by the words in it alone."""
        return b"ERROR" in piece or self._index.may_match(plain(piece))

    def feed(self, line: str) -> None:
        """Read one line of the log."""
        line = without_colours(line)
        if self._attentive() or self._matter([line.encode("utf-8", "replace")])[0]:
            self._feed(line)

    def _feed(self, line: str, times: int = 1) -> None:
        """Read one log line that stands for *times* equal lines."""
        self.lines += 1
        for record in records(line):
            inner = record.text if record.logged else self._outer.removed(record.text)
            if inner is record.text:
                self._take(record, times)
                continue
            for each in records(inner):
                self._take(replace(each, line=record.line, source=each.source or record.source), times)

    def _take(self, record: Record, times: int) -> bool:
        boot = self.boots.setdefault(record.source, Boot())
        record = boot.joined(record)
        text = record.text
        if boot.sizes_due:
            self._sizes(boot, text)
        if HEADER in text and not quoting.quoted(text, text.index(HEADER)):
            return self._begin(boot, record)
        trace = boot.traces.get(record.key)
        if trace is not None and self._continue(boot, trace, record):
            return True
        if boot.phase != "stop" and FRAME.match(text) and record.source != "systemd":
            return self._begin(boot, record)
        return self._message(boot, record, times)

    def _sizes(self, boot: Boot, text: str) -> None:
        boot.sizes_due -= 1
        if (found := boot.sized) and found.signature.then and (match := re.search(found.signature.then, text)):
            found.metrics |= figures(self._whole_groups(match))
            boot.sizes_due *= any(text is None for text in match.groupdict().values())

    def _begin(self, boot: Boot, record: Record) -> bool:
        """
        Begin a traceback if a log line starts one, and return whether it does. The engine's message may precede it in
        the line.
        """
        if boot.phase == "stop":
            return False
        before = record.text.partition(HEADER)[0] if HEADER in record.text else ""
        before = GROUP.sub("", before).replace("Exception Group", "").strip()
        if before:
            self._message(boot, replace(record, text=before), 1)
            boot = self.boots[record.source]
        old = boot.traces.get(record.key)
        caught = boot.caught.get((record.source, record.process), False)
        made = Trace(record, caught=old.caught if old and old.chained else caught)
        if old and old.chained:
            made.chained, made.failure = True, old.failure
        boot.traces[record.key] = made
        boot.traces[record.source, record.process, ""] = made
        if FRAME.match(record.text):
            self._places(boot, made, record)
        return True

    def _continue(self, boot: Boot, trace: Trace, record: Record) -> bool:
        """Read the log's next *record* if it belongs to *trace*, and return whether it does."""
        if not trace.holds(record):
            if trace.done and record.kinds[-1:] != ("nccl",):
                boot.closes(trace)
            return False
        trace.lines += 1
        if trace.lines > _TRACE_LINES or (trace.done and trace.message > _MESSAGE_LINES):
            boot.closes(trace)
            return False
        text = GROUP.sub("", record.text) if record.text[:1] == " " else record.text
        if not text.strip() or text.startswith(CHAINED):
            trace.chained = trace.chained or bool(text.strip())
            return True
        return self._line_of(boot, trace, record, text)

    def _line_of(self, boot: Boot, trace: Trace, record: Record, text: str) -> bool:
        """Read *text*, a log line of *trace*: a frame, its source line, the exception, or more of the exception's message."""
        if not trace.done and INDENTED.match(text):
            text = text.strip()
        if FRAME.match(text) or (not trace.done and text[:1] == " "):
            trace.done = False
            self._places(boot, trace, record)
            return True
        if EXCEPTION.match(text) if trace.done else (ENDS_IN.match(text.rstrip()) or EXCEPTION.match(text)):
            if not trace.done or trace.chained:
                self._ends(boot, trace, record, text)
                return True
        elif not trace.done:
            return False
        trace.message += 1
        boot.errors.ended_at = max(boot.errors.ended_at, self.lines) if not trace.caught else boot.errors.ended_at
        return self._explain(boot, record, text, trace) is not None or text[:1] == " "

    def _places(self, boot: Boot, trace: Trace, record: Record) -> None:
        text = record.text
        trace.tail = [*trace.tail[-5:], text]
        trace.frame = text if FRAME.match(text) else trace.frame
        for pattern, place in self._index.places:
            if pattern.search(text):
                trace.places[place.of] = place
                trace.phase = place.phase
        if "assert " in text:
            self._explain(boot, record, text, trace)

    def _ends(self, boot: Boot, trace: Trace, record: Record, text: str) -> None:
        """Read the exception that ends *trace* in the log."""
        trace.done, trace.message = True, 0
        known = self._explain(boot, record, text, trace)
        if trace.caught or trace.tells(record):
            boot.errors.caught = boot.errors.caught or text.strip()
            return
        boot.errors.ended_at = self.lines
        if known is not None and known.summary:
            boot.errors.echo = boot.errors.echo or text.strip()
        elif boot.errors.text is None:
            boot.errors.text, boot.errors.before, boot.errors.phase = text.strip(), tuple(trace.tail), trace.phase
        trace.places, trace.phase = {}, None

    def _message(self, boot: Boot, record: Record, times: int) -> bool:
        """Read a log line outside a traceback, and return whether it is a fact or a notice."""
        text = record.text
        if record.bare and not record.kinds and quoting.is_comment(text):
            return False
        if self.evidence.take(record):
            return True
        said = self._facts(boot, record)
        boot = self.boots[record.source]
        if boot.phase == "stop":
            boot.cuts(text)
            return said
        owner = (record.source, record.process)
        if (notice := self._notice(boot, record, times)) is not None:
            boot.catches(owner, self.lines if notice.caught else None)
            return True
        if text.strip():
            boot.catches(owner, None)
        alive = boot.lives(text, self.lines, times)
        known = self._explain(boot, record, text, None)
        if known is not None and known.survivable:
            boot.catches(owner, self.lines)
        if known is None and boot.errors.complaint is None and complains(record):
            boot.errors.complaint = record.whole.strip()
        return said or alive

    def _facts(self, boot: Boot, record: Record) -> bool:
        text, said = record.text, False
        facts = [each for each in self._index.of(text) if isinstance(each[1], Fact)]
        if not facts or quoting.is_request(text):
            return False
        for pattern, fact in facts:
            if not (match := pattern.search(text)):
                continue
            if fact.phase and quoting.in_string(text, match.start()):
                continue
            if fact.boot and (boot.phase in ("serve", "stop") or boot.fatal_at is not None or boot.candidates):
                self.earlier.setdefault(record.source, []).append(boot)
                boot = self.boots[record.source] = Boot()
                self._shapes.known.clear()  # a first error of this boot is wanted, too
            if (boot.phase == "serve") is not (fact.phase == "stop") or boot.phase == "stop":
                if boot.phase == "serve" and fact.phase == "serve":
                    boot.alive_at, said = self.lines, True
                continue
            found = self._whole_groups(match)
            boot.figures |= figures(found)
            boot.words |= words(found)
            boot.told = said = True
            if fact.phase == "serve":
                boot.served_at, boot.alive_at = self.lines, self.lines
            boot.phase = fact.phase or boot.phase
        return said

    def _notice(self, boot: Boot, record: Record, times: int) -> Benign | None:
        for pattern, entry in self._index.of(record.text):
            if isinstance(entry, Benign) and pattern.search(record.text):
                boot.notices[entry.id] += times
                boot.noticed_at[entry.id] = self.lines
                if entry.undoes:
                    boot.candidates = [each for each in boot.candidates if each.signature.id != entry.undoes]
                return entry
        return None

    def _explain(self, boot: Boot, record: Record, text: str, trace: Trace | None) -> Signature | None:
        """Return the signature of the failure in the log line *text*; None if the line reports none."""
        exception, text = trace is not None or is_exception(record, text), joined(text)
        summary: Signature | None = None
        for pattern, signature in self._index.of(text):
            if not isinstance(signature, Signature) or (signature.booting and boot.reached in _SERVING):
                continue
            if not (trace.raised(signature) if trace else not (signature.placed or signature.raised_in)):
                continue
            if (match := pattern.search(text)) is None:
                continue
            if signature.version is not None and not self._runs(boot, signature.version):
                continue
            if not counts(signature, record, text, match.start(), exception=exception):
                continue
            caught = trace is not None and trace.caught and not signature.survivable
            if caught or (signature.summary and summary is not None):
                continue
            made = self._found(boot, record, signature, match, trace)
            made.repeated = summary is not None
            made.noticed = noticed(signature, trace.level(record) if trace else record.level)
            if not signature.summary:
                return signature
            summary = signature  # the same line may quote the cause
        return summary

    def _found(
        self, boot: Boot, record: Record, signature: Signature, match: re.Match[str], trace: Trace | None
    ) -> Failure:
        found = self._whole_groups(match)
        if signature.sizes and (more := re.search(signature.sizes, match.string)):
            found |= self._whole_groups(more)
        place = trace.places.get(signature.kind) if trace is not None else None
        phase = place.phase if place else boot.phase_of(signature) or (trace and trace.phase) or boot.reached
        silent = boot.errors.text is None and boot.errors.complaint is None and not boot.inside
        made = Failure(
            *(signature, record.whole.strip(), figures(found), words(found), phase, place, silent),
            *(self.lines, record.time, record.process, record.rank),
        )
        if not signature.summary:
            boot.keeps(made, trace)
            return made
        boot.sums_up(made, self.lines)
        for because in worded(made.words.get("because")):
            if self._explain(boot, replace(record, text=because), because, Trace(record, caught=False, done=True)):
                break
        return made

    def _whole_groups(self, match: re.Match[str]) -> dict[str, str | None]:
        """
        Return the groups of *match* in a log line, without a group at the end of a line that was cut. A value is None
        for an unmatched group.
        """
        found = match.groupdict()
        return {name: text for name, text in found.items() if not self.cut or match.end(name) < len(match.string)}

    def _runs(self, boot: Boot, wanted: str) -> bool:
        """Return whether the engine's version in the log is in *wanted*; True if the version is unknown."""
        version = boot.words.get("engine_version", self.version)
        return version is None or in_range(version, wanted)
