"""What a growing log has told so far, in constant memory: feed it lines, or blocks of them as fast as a disk gives them."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from pytest_longctx.diagnosis import quoting
from pytest_longctx.diagnosis.boot_state import Boot, Failure, FirstError, chosen, rooted
from pytest_longctx.diagnosis.entries import index_of
from pytest_longctx.diagnosis.log_evidence import WORDS, LogEvidence
from pytest_longctx.diagnosis.prefilter import HEXADECIMAL
from pytest_longctx.diagnosis.records import COLOURS, Record, records
from pytest_longctx.diagnosis.roles import complains, counts, is_exception
from pytest_longctx.diagnosis.signatures import Benign, Catalogue, Fact, Phase, Signature, figures, words
from pytest_longctx.diagnosis.tracebacks import CHAINED, ENDS_IN, EXCEPTION, FRAME, GROUP, HEADER, Trace
from pytest_longctx.toml import in_range

_CHUNK_BYTES = 1 << 20
_SIZES_WITHIN = 20
"""How many lines after a failure its sizes may stand in."""
_SIZES_DUE = 2
_MOST_CANDIDATES = 64
_MESSAGE_LINES = 40
"""How long the message of an exception may be."""
_TRACE_LINES = 2000
"""A traceback that has not ended by then is given up: another process has written over it."""
_MOST_SHAPES = 20_000
_MANY = 64
_OFTEN = 16
"""How often a line of one shape is looked at in one block."""

_ESCAPES = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]|\x1b_bk;t=\d+\x07|\x1b[()][A-Z0-9]")


class LogReader:
    """What the log of one deployment says. *version* is the engine's where it is known; else the log is asked."""

    def __init__(self, catalogue: Catalogue, version: str | None = None) -> None:
        self.catalogue, self.version = catalogue, version
        self.boots: dict[str, Boot] = {}
        self.earlier: dict[str, list[Boot]] = {}
        """What boots before the last one came to, by their source."""
        self.evidence = LogEvidence()
        self.lines = 0
        self.cut = False
        """Whether the line at hand has no end: the log was cut in it, or is still being written."""
        self._index = index_of(catalogue)
        self._shapes: dict[bytes, bool] = {}

    @property
    def boot(self) -> Boot:
        """The boot that counts: of the engine's own container, the last, and the one that failed where one of several did."""
        if not self.boots:
            self.boots[""] = Boot()
        return chosen(self.boots, self.earlier)

    @property
    def figures(self) -> dict[str, float]:
        """The figures of the boot."""
        return self.boot.figures

    @property
    def words(self) -> dict[str, str]:
        """What it called by name."""
        return self.boot.words

    @property
    def phase(self) -> Phase:
        """How far it has come."""
        return self.boot.phase

    @property
    def errors(self) -> FirstError:
        """Its first error."""
        return self.boot.errors

    @property
    def notices(self) -> Counter[str]:
        """How often each benign line was seen, by its id."""
        return self.boot.notices

    @property
    def cause(self) -> Failure | None:
        """The line that names the cause; the kernel's evidence of a hardware fault, in whatever part of the log, before any."""
        return rooted(self.boots, self.boot) or self.boot.cause

    @property
    def summary(self) -> Failure | None:
        """The first line that says something failed without naming a cause."""
        return self.boot.summary

    @property
    def failure(self) -> Failure | None:
        """The cause where one was named, else the summary."""
        return self.cause or self.summary

    @property
    def fatal(self) -> bool:
        """Whether the log says what the engine does not survive, by its own source."""
        return self.boot.fatal_at is not None

    def benign(self) -> Iterator[tuple[Benign, int]]:
        """The benign lines that were seen, and how often."""
        for entry in self.catalogue.benign:
            if self.notices[entry.id]:
                yield entry, self.notices[entry.id]

    def told(self) -> dict[str, str]:
        """Its words, and under ``notices`` the ids of the benign lines."""
        seen = ", ".join(entry.id for entry, _ in self.benign())
        return {**self.words, "notices": seen} if seen else dict(self.words)

    def read(self, block: bytes) -> None:
        """Take in a block of whole lines, as `Lines` makes them."""
        if b"\x1b" in block:
            block = _ESCAPES.sub(b"", block)
        known, often = self._shapes, dict[bytes, int]()
        lines, shapes = block.split(b"\n"), block.translate(None, HEXADECIMAL).split(b"\n")
        self._pass_over(dict(zip(shapes, lines, strict=True)))
        last: dict[bytes, bytes] = {}
        attentive = self._attentive()
        for line, shape in zip(lines, shapes, strict=True):
            if not shape or (known.get(shape) is False and not attentive):
                continue
            count = often[shape] = often.get(shape, 0) + 1
            if (
                count > _OFTEN and attentive < _SIZES_DUE
            ):  # it has said what it has to say; only its last figures, and how often it came, are new
                if known[shape]:
                    last[shape] = line
                continue
            if not attentive and shape not in known and not self._matters(line):
                known[shape] = False
                continue
            known[shape] = self._feed(line.decode("utf-8", "replace"))
            attentive = self._attentive()
        for shape, line in last.items():
            self._feed(line.decode("utf-8", "replace"), times=often[shape] - _OFTEN)

    def _pass_over(self, by_shape: dict[bytes, bytes]) -> None:
        """Note the shapes of lines that have no word of any pattern, all of them at once where none has."""
        if len(self._shapes) > _MOST_SHAPES:
            self._shapes.clear()
        fresh = {shape: line for shape, line in by_shape.items() if shape not in self._shapes}
        if len(fresh) > _MANY and not self._index.filter.matters(b"\n".join(fresh.values())):
            self._shapes.update(dict.fromkeys(fresh, False))

    def read_rest(self, block: bytes) -> None:
        """Take in the last line where it has no end of its own."""
        self.cut = True
        self.read(block)
        self.cut = False

    def _attentive(self) -> int:
        """Whether every line matters now: inside a traceback, and all the more where sizes are due."""
        return max((_SIZES_DUE if boot.sizes_due else bool(boot.traces) for boot in self.boots.values()), default=0)

    def _matters(self, line: bytes) -> bool:
        """Whether *line* may say anything."""
        found = self._index.matters(line)
        if found is not None:
            return found
        return b"ERROR" in line and not all(boot.errors.complaint for boot in self.boots.values() or [Boot()])

    def feed(self, line: str) -> None:
        """Take in one line of the log."""
        line = COLOURS.sub("", line) if "\x1b" in line else line
        if self._attentive() or self._matters(line.encode("utf-8", "replace")):
            self._feed(line)

    def _feed(self, line: str, times: int = 1) -> bool:
        """Take in one line that came so many *times*; whether it said anything."""
        self.lines += 1
        return max([self._take(record, times) for record in records(line)], default=False)

    def _take(self, record: Record, times: int) -> bool:
        boot = self.boots.setdefault(record.source, Boot())
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
        """A traceback begins here, perhaps after words of the engine in the same line."""
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
        """Whether *record* is a line of *trace*, which then has been read."""
        if not trace.holds(record):
            if trace.done and record.kinds[-1:] != ("nccl",):
                self._close(boot, trace)
            return False
        trace.lines += 1
        if trace.lines > _TRACE_LINES or (trace.done and trace.message > _MESSAGE_LINES):
            self._close(boot, trace)
            return False
        text = GROUP.sub("", record.text) if record.text[:1] == " " else record.text
        if not text.strip() or text.startswith(CHAINED):
            trace.chained = trace.chained or bool(text.strip())
            return True
        return self._line_of(boot, trace, record, text)

    def _line_of(self, boot: Boot, trace: Trace, record: Record, text: str) -> bool:
        """Take in *text*, a line of *trace*: a frame, its source, the exception or more of its message."""
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
        return self._explain(boot, record, text, trace) is not None or text[:1] == " "

    def _close(self, boot: Boot, trace: Trace) -> None:
        boot.traces = {key: each for key, each in boot.traces.items() if each is not trace}

    def _places(self, boot: Boot, trace: Trace, record: Record) -> None:
        text = record.text
        trace.tail = [*trace.tail[-5:], text]
        for pattern, place in self._index.places:
            if pattern.search(text):
                trace.places[place.of] = place
                trace.phase = place.phase
        if "assert " in text:
            self._explain(boot, record, text, trace)

    def _ends(self, boot: Boot, trace: Trace, record: Record, text: str) -> None:
        """The exception that *trace* ends in."""
        trace.done, trace.message = True, 0
        if trace.caught:
            boot.errors.caught = boot.errors.caught or text.strip()
            self._explain(boot, record, text, trace)
            return
        known = self._explain(boot, record, text, trace)
        if boot.errors.text is None and (known is None or not known.summary):
            boot.errors.text, boot.errors.before = text.strip(), tuple(trace.tail)
        trace.places, trace.phase = {}, None

    def _message(self, boot: Boot, record: Record, times: int) -> bool:
        """Take in a line that belongs to no traceback; whether it told a fact or a notice."""
        text = record.text
        if record.bare and not record.kinds and quoting.is_comment(text):
            return False
        if _MAY_BE_EVIDENCE.search(text) and self.evidence.take(record):
            return True
        said = self._facts(boot, record)
        boot = self.boots[record.source]
        if boot.phase == "stop":
            if match := _CUT_REQUESTS.search(text):
                boot.cut_requests = max(boot.cut_requests, int(match[1] or match[2]))
            return said
        owner = (record.source, record.process)
        if (notice := self._notice(boot, record, times)) is not None:
            boot.caught[owner] = notice.caught
            return True
        if text.strip():
            boot.caught[owner] = False
        alive = boot.lives(text, self.lines, times)
        known = self._explain(boot, record, text, None)
        if known is not None and known.survivable:
            boot.caught[owner] = True
        if known is None and boot.errors.complaint is None and complains(record):
            boot.errors.complaint = record.whole.strip()
        return said or alive

    def _facts(self, boot: Boot, record: Record) -> bool:
        text, said = record.text, False
        if quoting.is_request(text):
            return False
        for pattern, fact in self._index.of(text):
            if not isinstance(fact, Fact) or not (match := pattern.search(text)):
                continue
            if fact.phase and quoting.in_string(text, match.start()):
                continue
            if fact.boot and (boot.phase in ("serve", "stop") or boot.fatal_at is not None or boot.candidates):
                self.earlier.setdefault(record.source, []).append(boot)
                boot = self.boots[record.source] = Boot()
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
                if entry.undoes:
                    boot.candidates = [each for each in boot.candidates if each.signature.id != entry.undoes]
                return entry
        return None

    def _explain(self, boot: Boot, record: Record, text: str, trace: Trace | None) -> Signature | None:
        """Look for a failure in *text*; the signature of the one that it is, or is an echo of."""
        exception = trace is not None or is_exception(record, text)
        for pattern, signature in self._index.of(text):
            if not isinstance(signature, Signature) or not (match := pattern.search(text)):
                continue
            if signature.version is not None and not self._runs(boot, signature.version):
                continue
            if not counts(signature, record, text, match.start(), exception=exception):
                continue
            if trace is not None and trace.caught and not signature.survivable:
                continue
            if signature.placed and (trace is None or signature.kind not in trace.places):
                continue
            self._found(boot, record, signature, match, trace)
            return signature
        return None

    def _found(
        self, boot: Boot, record: Record, signature: Signature, match: re.Match[str], trace: Trace | None
    ) -> None:
        found = self._whole_groups(match)
        if signature.sizes and (more := re.search(signature.sizes, match.string)):
            found |= self._whole_groups(more)
        place = trace.places.get(signature.kind) if trace is not None else None
        phase = place.phase if place else signature.phase or (trace and trace.phase) or boot.reached
        silent = boot.errors.text is None and boot.errors.complaint is None and not boot.inside
        made = Failure(
            *(signature, record.whole.strip(), figures(found), words(found), phase, place, silent),
            *(self.lines, record.time, record.process, record.rank),
        )
        if signature.summary:
            if not signature.survivable and boot.fatal_at is None:
                boot.fatal_at = self.lines
            if boot.summary is None or (boot.summary.signature.survivable and not signature.survivable):
                boot.summary = made
            if because := made.words.get("because"):
                self._explain(boot, replace(record, text=because), because, Trace(record, caught=False, done=True))
            return
        if trace is not None and trace.chained and signature.wrapper and trace.failure in boot.candidates:
            inner = trace.failure
            made.metrics, made.order, made.time = {**inner.metrics, **made.metrics}, inner.order, inner.time
            boot.candidates[boot.candidates.index(inner)] = made
        elif len(boot.candidates) < _MOST_CANDIDATES or not any(
            each.signature.id == signature.id for each in boot.candidates
        ):
            boot.candidates.append(made)
        if trace is not None:
            trace.failure = trace.failure if trace.failure in boot.candidates else made
        if signature.then:
            boot.sizes_due, boot.sized = _SIZES_WITHIN, made

    def _whole_groups(self, match: re.Match[str]) -> dict[str, str | None]:
        """What *match* read; in a line without an end, what stands at its end may be a part of a number or a word."""
        found = match.groupdict()
        return {name: text for name, text in found.items() if not self.cut or match.end(name) < len(match.string)}

    def _runs(self, boot: Boot, wanted: str) -> bool:
        """Whether the engine's version lies in *wanted*; so does one that is not known."""
        version = boot.words.get("engine_version", self.version)
        return version is None or in_range(version, wanted)


_MAY_BE_EVIDENCE = re.compile("|".join(map(re.escape, WORDS)))
_CUT_REQUESTS = re.compile(r"aborting in-flight requests count=(\d+)|Remaining number of requests (\d+)")
