#!/usr/bin/env python3
"""One engine in a process of its own: does the job that it reads as JSON from standard input, and prints a JSON object a line.

Job: {"task": "prepare" | "measure", "engine", "shape", "dtype", "threads", "files", "batches", "prompt", "new", "prefill"}.
Lines: {"event": "loaded" | "generated" | "prefilled" | "failed", …}. What libraries print goes to standard error.
"""

import json
import os
import pathlib
import sys
import time
import traceback

from engines import ENGINES
from engines.base import Unsupported
from shapes import shape_named


def claim_output():
    """Standard output for our lines alone: libraries write to file descriptor 1 too."""
    ours = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return ours


def measure(engine, shape, job, say):
    begin = time.perf_counter()
    engine.load(shape, job["dtype"])
    say({"event": "loaded", "load_s": time.perf_counter() - begin, "versions": engine.versions()})
    for batch in job["batches"]:
        timing = engine.generate(batch, job["prompt"], job["new"])
        say({"event": "generated", "batch": batch, "total_s": timing.total_s, "first_token_s": timing.first_token_s,
             "weight_bytes_per_step": engine.weight_bytes_per_step, "notes": engine.notes})  # fmt: skip
    if job["prefill"]:
        total_s = engine.prefill(job["prefill"])
        say({"event": "prefilled", "tokens": job["prefill"], "total_s": total_s, "notes": engine.notes})


def main():
    output = claim_output()
    job = json.load(sys.stdin)
    shape = shape_named(job["shape"])
    engine = ENGINES[job["engine"]](job["threads"], pathlib.Path(job["files"]))
    try:
        if job["task"] == "prepare":
            engine.prepare(shape, job["dtype"])
        else:
            measure(engine, shape, job, lambda line: print(json.dumps(line), file=output))
    except Exception as error:
        if not isinstance(error, Unsupported):
            traceback.print_exc()
        reason = str(error).strip().splitlines()[-1:] or [""]
        kind = "" if isinstance(error, Unsupported) else f"{type(error).__name__}: "
        print(json.dumps({"event": "failed", "reason": kind + reason[0]}), file=output)
        sys.exit(1)


if __name__ == "__main__":
    main()
