"""
Load a model with transformers and answer completions of token ids, one at a time.

It runs in the interpreter that has transformers. This interpreter may not have pytest_longctx, so this module
imports nothing from it.
"""

import argparse
import hmac
import json
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = dict[str, Any]


class Loaded:
    """A model loaded in this process."""

    def __init__(self, given: argparse.Namespace) -> None:
        import torch
        import transformers

        self.torch, self.version, self.name = torch, transformers.__version__, given.served_model_name
        self.prefill_chunk = given.prefill_chunk
        options = {"dtype": given.dtype, "attn_implementation": given.attn_implementation}
        auto = transformers.AutoModelForCausalLM
        if given.random_weights:
            torch.manual_seed(0)
            self.model = auto.from_config(transformers.AutoConfig.from_pretrained(given.model), **options)
        else:
            self.model = auto.from_pretrained(given.model, device_map=given.device_map, **options)
        self.model.eval()
        config = self.model.config.get_text_config()
        self.limit, self.size = given.max_model_len or config.max_position_embeddings, config.vocab_size
        self.turn = threading.Lock()

    def refuses(self, asked: Answer) -> str | None:
        """Return the reason why the server refuses the completion request *asked*; None if the server can answer it."""
        prompt = asked.get("prompt")
        if not isinstance(prompt, list) or not prompt or not all(isinstance(each, int) for each in prompt):
            return "the prompt must be a list of token ids: this server has no tokenizer"
        if not all(0 <= each < self.size for each in prompt):
            return f"a token id is outside the vocabulary of {self.size}"
        if len(prompt) + asked.get("max_tokens", 16) > self.limit:
            return f"{len(prompt)} and {asked.get('max_tokens', 16)} tokens are more than max_model_len {self.limit}"
        return None

    def generate(self, asked: Answer, streamer: Any) -> None:
        """Generate one greedy answer with transformers. *streamer* receives each token at once."""
        count = asked.get("max_tokens", 16)
        least = count if asked.get("ignore_eos") else 0
        ids = self.torch.tensor([asked["prompt"]], device=self.model.device)
        with self.turn, self.torch.inference_mode():
            self.model.generate(
                ids,
                attention_mask=self.torch.ones_like(ids),
                max_new_tokens=count,
                min_new_tokens=least,
                do_sample=False,
                prefill_chunk_size=self.prefill_chunk,
                streamer=streamer,
            )


class Stream:
    """Streamer for ``generate``, whose first call receives the prompt."""

    def __init__(self, door: "Door") -> None:
        self.door, self.answered = door, -1

    def put(self, value: Any) -> None:
        self.answered += 1
        if self.answered:
            self.door.event({"choices": [{"index": 0, "text": "".join(f" {each}" for each in value.tolist())}]})

    def end(self) -> None:
        pass


class Door(BaseHTTPRequestHandler):
    """HTTP handler of the parts of the OpenAI API that findings need."""

    protocol_version = "HTTP/1.1"
    loaded: Loaded
    key: str | None

    def do_GET(self) -> None:
        """Serve the health, version and model pages over HTTP."""
        row = {"id": self.loaded.name, "object": "model", "max_model_len": self.loaded.limit}
        pages = {"/health": {}, "/version": {"version": self.loaded.version}, "/v1/models": {"data": [row]}}
        self.answer(200, pages[self.path]) if self.path in pages else self.answer(404, {"error": "no such page"})

    def do_POST(self) -> None:
        """Serve a completion request over HTTP, as an event stream or in one response."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.key and not hmac.compare_digest(self.headers.get("Authorization", ""), f"Bearer {self.key}"):
            return self.answer(401, {"error": "the key is missing or wrong"})
        try:
            asked = json.loads(body)
            refused = self.loaded.refuses(asked)
        except (ValueError, AttributeError, TypeError) as problem:
            refused = f"not a completion request: {problem}"
        if self.path != "/v1/completions" or refused:
            return self.answer(400 if refused else 404, {"error": {"message": refused or "no such page"}})
        self.chunks: list[Answer] = []
        self.streams = bool(asked.get("stream"))
        if self.streams:
            self.head(200, "text/event-stream", {"Connection": "close"})
        stream = Stream(self)
        self.loaded.generate(asked, stream)
        sent, given = len(asked["prompt"]), stream.answered
        counts = {"prompt_tokens": sent, "completion_tokens": given, "total_tokens": sent + given}
        usage = {**counts, "prompt_tokens_details": {"cached_tokens": 0}}
        if self.streams:
            self.event({"choices": [], "usage": usage})
            self.wfile.write(b"data: [DONE]\n\n")
            self.close_connection = True
            return None
        text = "".join(each["choices"][0]["text"] for each in self.chunks)
        return self.answer(200, {"choices": [{"index": 0, "text": text, "finish_reason": "length"}], "usage": usage})

    def event(self, event: Answer) -> None:
        """Send *event* of a completion at once, or keep it for a single response."""
        if not self.streams:
            self.chunks.append(event)
            return
        self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        self.wfile.flush()

    def answer(self, status: int, body: Answer) -> None:
        """Send a complete JSON response over HTTP."""
        content = json.dumps(body).encode()
        self.head(status, "application/json", {"Content-Length": str(len(content))})
        self.wfile.write(content)

    def head(self, status: int, kind: str, more: dict[str, str]) -> None:
        """Send the status and headers of an HTTP response."""
        self.send_response(status)
        for name, value in {"Content-Type": kind, **more}.items():
            self.send_header(name, value)
        self.end_headers()


def main() -> None:
    """Load the model with transformers, then serve it. Until the model is loaded, no request is accepted."""
    parser = argparse.ArgumentParser(prog="transformers_load")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--served-model-name", required=True)
    parser.add_argument("--max-model-len", type=int)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device-map")
    parser.add_argument("--attn-implementation", default="sdpa")
    parser.add_argument("--prefill-chunk", type=int, default=2048, help="prompt tokens per prefill step")
    parser.add_argument(
        "--random-weights", action="store_true", help="generate random weights; the folder needs only a config"
    )
    given = parser.parse_args()
    started_s = time.monotonic()
    Door.loaded, Door.key = Loaded(given), os.environ.get("LONGCTX_SERVER_KEY")
    server = ThreadingHTTPServer((given.host, given.port), Door)
    print(f"loaded by transformers {Door.loaded.version} in {time.monotonic() - started_s:.1f} s", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
