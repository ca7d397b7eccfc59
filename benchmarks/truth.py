"""
A server with known timing: it scripts the time of the first token and the pieces of the answer, and logs the actual times.

    python benchmarks/truth.py --port 8000 --log truth.jsonl --first-s 0.05

It runs in one thread without a parser, so its stamps are those of its reads and writes. As in the client, data read in one turn
of the loop has the time at which the turn began. First tokens are spread between *first-s* and twice that, like prefills that
take turns. The first piece of an answer contains the number of the request, so that any client that keeps the text can be matched
with the log. An ``x-request-id`` is logged too.
"""

import argparse
import asyncio
import json
import re
import time
from pathlib import Path
from typing import Any, TextIO

from pytest_longctx.client import event_loop

MODELS = b'{"object": "list", "data": [{"id": "truth", "object": "model", "max_model_len": 20000000}]}'
_SPREAD = 0.618
_EDGE = 4096
"""Number of bytes at either end of a body in which the parameters beside the prompt are found."""


class Script:
    """The answer, its timing, and the log file."""

    def __init__(self, first_s: float, gap_s: float, step_s: float, piece: int, log: TextIO) -> None:
        self.first_s, self.gap_s, self.step_s, self.piece, self.log = first_s, gap_s, step_s, piece, log
        self.requests = 0

    def due(self, wanted: float) -> float:
        """
        Return *wanted*, or the end of the step that contains it: all streams of an engine get their tokens at the same
        moment.
        """
        return wanted if not self.step_s else (wanted // self.step_s + 1) * self.step_s


class Connection(asyncio.Protocol):
    """A client's connection with one request at a time."""

    def __init__(self, script: Script) -> None:
        self.script, self.data, self.body_at, self.length = script, bytearray(), 0, 0
        self.first_byte_s = 0.0

    def connection_made(self, transport: Any) -> None:
        """Store the transport."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Record the time of the first and the last byte."""
        now = event_loop.woke_s() or time.monotonic()
        if not self.data:
            self.first_byte_s = now
        self.data += data
        if not self.body_at and (end := self.data.find(b"\r\n\r\n")) > 0:
            self.body_at = end + 4
            found = re.search(rb"content-length: *(\d+)", self.data[:end], re.IGNORECASE)
            self.length = int(found[1]) if found else 0
        if self.body_at and len(self.data) >= self.body_at + self.length:
            whole, body_at = self.data, self.body_at
            self.data, self.body_at = bytearray(), 0
            if whole.startswith(b"POST"):
                _Answer(self.transport, self.script, whole, body_at, (self.first_byte_s, now))
            else:
                self.transport.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(MODELS)
                    + MODELS
                )


class _Answer:
    """One answer, sent piece by piece."""

    def __init__(
        self, transport: Any, script: Script, whole: bytearray, body_at: int, stamps: tuple[float, float]
    ) -> None:
        self.transport, self.script, self.loop = transport, script, asyncio.get_running_loop()
        script.requests += 1
        named = re.search(rb"x-request-id: *([^\r]+)", whole[:body_at], re.IGNORECASE)
        first_byte_s, last_byte_s = stamps
        self.row: dict[str, Any] = {"number": script.requests, "named": named[1].decode() if named else None}
        self.row |= {"first_byte_s": first_byte_s, "last_byte_s": last_byte_s}
        self.due_s = script.due(last_byte_s + script.first_s * (1 + script.requests * _SPREAD % 1))
        self.loop.call_at(self.due_s, self.say)
        transport.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        # Done during the wait, because it is slow for ten million ids.
        edges = bytes(whole[body_at : body_at + _EDGE] + whole[-_EDGE:])
        asked = re.search(rb'"max_(?:completion_)?tokens": *(\d+)', edges)
        self.tokens = int(asked[1]) if asked else 16
        self.chat = b'"messages"' in edges
        ids = re.search(rb'"prompt": *\[', edges)
        self.prompt_tokens = whole.count(b",", whole.index(b"[", body_at), whole.rindex(b"]")) + 1 if ids else 1
        self.said = 0

    def say(self) -> None:
        """Send the next piece; after the last one send the usage and the end, and write a log line."""
        if self.transport.is_closing():
            return
        count = min(self.script.piece, self.tokens - self.said)
        text = " w" * count if self.said else f"r{self.row['number']}." + " w" * (count - 1)
        self.said += count
        done = self.said == self.tokens
        out = self._event({"choices": [self._choice(text, "length" if done else None)]})
        before_s = time.monotonic()
        self.transport.write(out)
        after_s = time.monotonic()
        if "wrote_s" not in self.row:
            self.row |= {"wrote_s": before_s, "written_s": after_s}
        if not done:
            self.due_s = self.script.due(self.due_s + self.script.gap_s)
            self.loop.call_at(self.due_s, self.say)
            return
        self.row |= {"last_wrote_s": before_s, "tokens": self.tokens, "prompt_tokens": self.prompt_tokens}
        total = self.prompt_tokens + self.tokens
        usage = {"prompt_tokens": self.prompt_tokens, "completion_tokens": self.tokens, "total_tokens": total}
        self.transport.write(self._event({"choices": [], "usage": usage}) + _chunk(b"data: [DONE]\n\n") + _chunk(b""))
        self.script.log.write(json.dumps(self.row) + "\n")
        self.script.log.flush()

    def _choice(self, text: str, reason: str | None) -> dict[str, Any]:
        return {"index": 0, **({"delta": {"content": text}} if self.chat else {"text": text}), "finish_reason": reason}

    def _event(self, event: dict[str, Any]) -> bytes:
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        named = {"id": f"cmpl-{self.row['number']}", "object": kind, "created": int(time.time()), "model": "truth"}
        return _chunk(f"data: {json.dumps(named | event)}\n\n".encode())


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


async def serve(port: int, script: Script) -> None:
    """Serve until terminated."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(script), "127.0.0.1", port, backlog=256)
    print("ready", flush=True)
    await server.serve_forever()


def main() -> None:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument(
        "--first-s", type=float, default=0.05, help="from the last byte of a request to its first token"
    )
    parser.add_argument("--gap-s", type=float, default=0.01)
    parser.add_argument(
        "--step-s", type=float, default=0.0, help="send pieces at multiples of this time; 0: as soon as they are due"
    )
    parser.add_argument("--piece", type=int, default=4, help="tokens in each piece")
    asked = parser.parse_args()
    with asked.log.open("w", encoding="utf-8") as log:
        event_loop.run(serve(asked.port, Script(asked.first_s, asked.gap_s, asked.step_s, asked.piece, log)))


if __name__ == "__main__":
    main()
