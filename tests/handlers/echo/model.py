# The least that shows a mixed-up answer: the request's own text, turned round. "s" holds the process for that many seconds.
import os
import time

LOADED_NS = time.monotonic_ns()  # tells a worker from the next that the system gives its number


def handle(inputs):
    if inputs.is_empty():
        return None
    body = inputs.get_as_json()
    time.sleep(body.get("s", 0))
    return {"nonce": body["nonce"], "reversed": body["text"][::-1], "worker": f"{os.getpid()}-{LOADED_NS}"}
