"""Start one miniature: ``python -m pytest_longctx.miniatures --fault late-first-token --port 8000``."""

import argparse
from collections.abc import Mapping
from types import MappingProxyType

from pytest_longctx.miniatures.faults import FAULTS
from pytest_longctx.miniatures.server import CRAWL_S, LATE_S, Honest, serve
from pytest_longctx.miniatures.sglang import Sglang

DIALECTS: Mapping[str, type[Honest]] = MappingProxyType({"vllm": Honest, "sglang": Sglang})


def main() -> None:
    """Run one miniature: parse its command line and serve until terminated."""
    parser = argparse.ArgumentParser(prog="python -m pytest_longctx.miniatures", description=__doc__)
    parser.add_argument("--fault", choices=FAULTS, default="honest", help="fault to play, only in vLLM's dialect")
    parser.add_argument("--dialect", choices=DIALECTS, default="vllm")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--served-model-name", default="miniature")
    parser.add_argument("--max-model-len", type=int, default=131_072)
    parser.add_argument("--kv-cache-tokens", type=int)
    parser.add_argument("--late-s", type=float, default=LATE_S, help="delay of the first token in late-first-token")
    parser.add_argument("--crawl-s", type=float, default=CRAWL_S, help="interval between the steps of a slow answer")
    given = parser.parse_args()
    if given.fault != "honest" and given.dialect != "vllm":
        parser.error("--fault needs --dialect vllm")
    kind = DIALECTS[given.dialect] if given.fault == "honest" else FAULTS[given.fault]
    pace = {"late_s": given.late_s, "crawl_s": given.crawl_s}
    serve(kind(given.served_model_name, given.max_model_len, given.kv_cache_tokens, **pace), given.host, given.port)


if __name__ == "__main__":
    main()
