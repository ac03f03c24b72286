"""bloomery bench, a process for each measurement; it warms up with one whole batch and takes its own times."""

import json
import os
import pathlib
import subprocess

from engines.base import Engine, Timing, Unsupported
from shapes import ROOT


class Bloomery(Engine):
    name = "bloomery"
    families = ("opt", "bloom")
    dtypes = ("int8", "bf16", "int4")
    ranks = 1  # that share the threads
    rank_flags = ()

    @staticmethod
    def binary():
        return pathlib.Path(os.environ.get("BLOOMERY", ROOT / "build/release/bloomery")).absolute()

    def versions(self):
        answer = subprocess.run([self.binary(), "--version"], capture_output=True, text=True, check=True)
        return {"bloomery": answer.stdout.strip()}

    def prepare(self, shape, dtype):
        if not os.access(self.binary(), os.X_OK):
            raise Unsupported(f"no program {self.binary().name}: build it, or set BLOOMERY")
        self.load(shape, dtype)
        self._bench(batch=1, prompt=1, new=1, warmup=0)  # a dtype that it does not know is refused here

    def load(self, shape, dtype):
        self.shape, self.dtype = shape, dtype

    def generate(self, batch, prompt, new):
        report = self._bench(batch, prompt, new)
        return Timing(total_s=report["p50_ms"] / 1000, first_token_s=report["ttft_ms"] / 1000)

    def prefill(self, tokens):
        return self._bench(batch=1, prompt=tokens, new=1)["ttft_ms"] / 1000

    def _bench(self, batch, prompt, new, warmup=1):
        arguments = ["bench", "--shape", self.shape.name, "--load-format", "dummy", "--dtype", self.dtype, "--threads", max(1, self.threads // self.ranks), *self.rank_flags,
                     "--batch-size", batch, "--prompt-tokens", prompt, "--max-new-tokens", new, "--iterations", 1, "--warmup", warmup,
                     "--format", "json"]  # fmt: skip
        arguments = [str(argument) for argument in arguments]
        answer = subprocess.run([self.binary(), *arguments], capture_output=True, text=True)
        if answer.returncode != 0:
            lines = answer.stderr.strip().splitlines() or [f"bloomery bench ended with status {answer.returncode}"]
            raise Unsupported(lines[-1])
        report = json.loads(answer.stdout)
        self.weight_bytes_per_step = report["weight_bytes_per_step"]
        self.notes = {"command": " ".join(["bloomery", *arguments]), "isa": report["isa"],
                      "memory_bandwidth_bytes_per_s": report["memory_bandwidth_bytes_per_s"]}  # fmt: skip
        return report


class TensorParallel(Bloomery):
    """Two ranks that share every layer, each with half of the threads."""

    name = "bloomery-tp2"
    ranks, rank_flags = 2, ("--tp", 2)


class PipelineParallel(Bloomery):
    """Two ranks with half of the layers and of the threads each, one after the other where a step has few rows, as Accelerate works."""

    name = "bloomery-pp2"
    ranks, rank_flags = 2, ("--pp", 2)
