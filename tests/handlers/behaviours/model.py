# What handlers do, well and badly. The body is JSON; "do" says what.
import os
import time

from djl_python import Output

time.sleep(float(os.environ.get("LOAD_S", "0")))


def lines(count, delay_s):
    for i in range(count):
        yield {"line": i}
        time.sleep(delay_s)


def broken():
    yield {"line": 0}
    raise ValueError("in the middle")


def handle(inputs):
    if inputs.is_empty():
        return None
    if inputs.get_property("content-type") != "application/json":
        return {"properties": inputs.get_properties(), "content": [[key, len(value)] for key, value in inputs.get_content()]}
    body = inputs.get_as_json()
    do = body.get("do")
    if do == "square":
        time.sleep(body.get("s", 0))
        return {"square": body["n"] ** 2, "pid": os.getpid()}
    if do == "stream":
        return Output().add_property("content-type", "application/jsonlines").add_stream_content(lines(body["n"], body.get("s", 0)))
    if do == "broken stream":
        return Output().add_stream_content(broken())
    if do == "raise":
        raise RuntimeError("this handler fails")
    if do == "refuse":
        return Output().error("not today", code=400, message="bad input")
    if do == "print":
        os.write(1, body["text"].encode(errors="surrogateescape") + b"\n")
    if do == "die":
        os._exit(1)
    if do == "hang":
        time.sleep(3600)
    if do == "bytes":
        return os.urandom(body["n"])
    return None
