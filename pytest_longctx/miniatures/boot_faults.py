"""Faults of a boot, one class each: servers that do not come up, or come up as they should not."""

import os
import signal
import subprocess
import sys
import time
from itertools import count

from pytest_longctx.miniatures.server import Honest, say


class HangsAtBoot(Honest):
    """Never opens its port."""

    def boot(self) -> None:
        super().boot()
        time.sleep(3600)


class ExitsAtBoot(Honest):
    """Ends with an exit code and no known last word."""

    def boot(self) -> None:
        say("something nobody has seen before")
        sys.exit(3)


class NeverHealthy(Honest):
    """Opens its port, and its health is never green."""

    def healthy(self) -> bool:
        return False


class CrawlsAtBoot(Honest):
    """Loads for ever, and says how far it has come every `crawl_s`, in a bar that does not end its line."""

    def boot(self) -> None:
        for done in count(1):
            print(f"Loading checkpoint shards: {done} of many\r", end="", flush=True)
            time.sleep(self.crawl_s)


class Overcommits(Honest):
    """Comes up with a KV cache that cannot hold one request of the length it lists, as vLLM 0.12 did at 5Mi tokens."""

    def boot(self) -> None:
        self.say_capacity(self.max_model_len * 3 // 4)


class RunsOutOfMemory(Honest):
    """Runs out of GPU memory at boot, in PyTorch's words."""

    def boot(self) -> None:
        say(
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 4.00 GiB. GPU 6 has a total capacity of "
            "140.06 GiB of which 3.12 GiB is free."
        )
        sys.exit(1)


class DiesHanging(Honest):
    """Runs out of GPU memory at boot, says so, and then neither goes on nor ends."""

    def boot(self) -> None:
        say(
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.22 GiB. GPU 0 has a total capacity of 139.80 GiB"
        )
        time.sleep(3600)


class LosesWorker(Honest):
    """A worker process is killed from outside, and the engine that lost it hangs."""

    def boot(self) -> None:
        super().boot()
        with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"]) as worker:
            worker.kill()
        say(f"Worker proc VllmWorker-2 died unexpectedly (exit code: {worker.returncode}), shutting down executor.")
        time.sleep(3600)


class IsKilled(Honest):
    """Is ended by SIGKILL without a word."""

    def boot(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class CriesWolf(Honest):
    """Logs what looks fatal and is not, and serves."""

    def boot(self) -> None:
        for _ in range(5):
            say(
                "No available shared memory broadcast block found in 60 seconds. This typically happens when some processes "
                "are hanging or doing some time-consuming work (e.g. compilation, weight/kv cache quantization)."
            )
        say(
            "Found ulimit of 20000 and failed to automatically increase with error current limit exceeds maximum limit."
        )
        say("UserWarning: resource_tracker: There appear to be 8 leaked semaphore objects to clean up at shutdown")
        super().boot()
