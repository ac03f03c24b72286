"""What an engine must be able to do. An engine lives in a process of its own (worker.py) and holds one model.

Packages are imported inside methods: the parent lists engines without having any of them.
"""

import dataclasses
import random
import time

from shapes import FIRST_PLAIN_ID


@dataclasses.dataclass(frozen=True)
class Timing:
    total_s: float  # from the prompts to the last token of the last sequence
    first_token_s: float  # from the prompts to the first token of every sequence


class Unsupported(Exception):
    """The engine has no such model or dtype; the text is the reason that the user reads."""


class Engine:
    name = ""
    packages = ()  # PyPI names, pinned in requirements.txt
    families = ()  # of shapes that it can run
    dtypes = ()

    def __init__(self, threads, files):
        self.threads = threads
        self.files = files  # a folder outside the tree for models made once
        self.shape = None
        self.notes = {}  # facts of the last measurement that go into the results
        self.weight_bytes_per_step = 0

    # For each engine to write.

    def versions(self):
        """{package: version} of what computes."""
        raise NotImplementedError

    def prepare(self, shape, dtype):
        """Makes, once, the files that load() reads. Raises Unsupported."""

    def load(self, shape, dtype):
        raise NotImplementedError

    def reserve(self, batch, tokens):
        """Untimed: memory for that many sequences of that many tokens."""

    def run(self, prompts, new):
        """Processes the prompts together and makes exactly `new` tokens for each, greedily, whatever they are."""
        raise NotImplementedError

    # The same for all, but for an engine that takes its own times.

    def generate(self, batch, prompt, new):
        prompts = self.random_prompts(batch, prompt)
        self.reserve(batch, prompt + new)
        self.run(prompts, min(new, 2))  # warm-up
        return Timing(first_token_s=seconds(self.run, prompts, 1), total_s=seconds(self.run, prompts, new))

    def prefill(self, tokens):
        """Seconds from a prompt of that length to its first token."""
        prompts = self.random_prompts(1, tokens)
        self.reserve(1, tokens + 1)
        self.run(prompts, 1)  # warm-up
        return seconds(self.run, prompts, 1)

    def random_prompts(self, batch, tokens):
        """[batch][tokens] ids, the same for every engine."""
        return [[source.randrange(FIRST_PLAIN_ID, self.shape.vocab) for _ in range(tokens)] for source in map(random.Random, range(batch))]


def seconds(call, *arguments):
    begin = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - begin
