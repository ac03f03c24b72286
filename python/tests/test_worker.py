"""The worker process, driven over its socket as the gateway drives it."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
import unittest

from djl_python import frames

PACKAGES = pathlib.Path(__file__).resolve().parent.parent
PATIENCE_S = 60


class Gateway:
    """A worker of a model.py of that text, and the other end of its socket."""

    def __init__(self, model, *arguments, file="model.py", rank=None, files=None):
        self.folder = tempfile.TemporaryDirectory()
        home = pathlib.Path(self.folder.name)
        for name, text in {file: textwrap.dedent(model), **(files or {})}.items():
            (home / name).write_text(text)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(home / "s"))
        listener.listen(1)
        listener.settimeout(PATIENCE_S)
        environment = {**os.environ, "PYTHONPATH": str(PACKAGES)}
        if rank is not None:
            environment.update(OMPI_COMM_WORLD_RANK=str(rank), OMPI_COMM_WORLD_LOCAL_RANK=str(rank), OMPI_COMM_WORLD_SIZE="2")
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-m", "djl_python.worker", "--socket", str(home / "s"), *arguments],
            cwd=home, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.connection, _ = listener.accept()
        self.connection.settimeout(PATIENCE_S)
        listener.close()
        self.stream = self.connection.makefile("rb")
        kind, hello = frames.read_frame(self.stream)
        assert (kind, hello.u32(), hello.u32()) == (frames.HELLO, rank or 0, self.process.pid)

    def send(self, kind, *parts):
        self.connection.sendall(frames.frame(kind, *parts))

    def next(self):
        return frames.read_frame(self.stream) or (None, None)

    def load(self, options=None):
        """"ready", or why not."""
        self.send(frames.LOAD, frames.pack_map(options or {}))
        kind, payload = self.next()
        return "ready" if kind == frames.READY else payload.text() if kind == frames.LOAD_FAILED else None

    def predict(self, *requests):
        parts = [frames.u32(len(requests))]
        for number, body in enumerate(requests):
            parts += [frames.u64(number), frames.pack_map({"Content-Type": "text/plain", "n": str(number)})]
            parts += [frames.u32(1), frames.pack_text(""), frames.pack_bytes(body.encode())]
        self.send(frames.PREDICT, *parts)

    def answers(self):
        """What comes until the call has ended: {request: [code, streamed, properties, [data], error]}, and how it ended."""
        found = {}
        while True:
            kind, payload = self.next()
            if kind is None:
                return found, None
            if kind == frames.CALLED:
                return found, payload.u32()
            number = payload.u64()
            if kind == frames.HEAD:
                found[number] = [payload.u32(), payload.u32(), payload.pairs(), [], None]
            elif kind == frames.DATA:
                found[number][3].append(payload.bytes())
            else:
                found[number][4] = payload.text()

    def ask(self, *requests):
        self.predict(*requests)
        return self.answers()

    def output(self):
        self.connection.close()
        self.stream.close()
        return self.process.communicate(timeout=PATIENCE_S)[0].decode()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stream.close()
        self.connection.close()
        self.process.kill()
        self.process.communicate()
        self.folder.cleanup()


KINDS = """
    import asyncio
    from djl_python import Input, Output
    def numbers():
        yield "one "
        yield b"two "
        yield {"three": 3}
    async def later():
        for i in range(3):
            await asyncio.sleep(0)
            yield str(i)
    def breaks():
        yield "begun"
        raise ValueError("in the middle")
    def breaks_at_once():
        raise ValueError("before the first")
        yield ""
    answers = {
        "none": lambda: None, "text": lambda: "grün", "bytes": lambda: b"\\xff", "json": lambda: {"a": [1, None]}, "number": lambda: 1.5,
        "output": lambda: Output(201, "made").add("first").add_as_json([2], key="data").add_property("X-Of-Ours", 5),
        "error": lambda: Output().error("mine"), "bare": lambda: Output(503, "later"), "batch": lambda: Output().add("x", key="data", batch_index=0),
        "numbers": numbers, "later": later, "breaks": breaks, "breaks_at_once": breaks_at_once,
        "formatted": lambda: Output().add_stream_content(iter([1, 2]), output_formatter=lambda n: f"<{n}>"),
        "raise": lambda: 1 / 0, "memory": lambda: bytearray(1 << 62), "surrogate": lambda: Output().add_property("k", "\\ud800").add("x"),
        "long": lambda: b"x" * (5 << 19), "empty": lambda: "",
    }
    def handle(inputs):
        if inputs.is_empty():
            return None
        print("asked for", inputs.get_as_string())
        return answers[inputs.get_as_string()]()
"""


class WorkerTest(unittest.TestCase):
    def check(self, model, *arguments, **keywords):
        gateway = Gateway(model, *arguments, **keywords)
        self.addCleanup(gateway.__exit__)
        return gateway

    def test_what_handlers_may_return(self):
        gateway = self.check(KINDS)
        self.assertEqual(gateway.load(), "ready")

        def ask(what):
            found, outcome = gateway.ask(what)
            self.assertEqual(outcome, 0, what)
            return found[0]

        text, octets, as_json = "text/plain; charset=utf-8", "application/octet-stream", "application/json"
        self.assertEqual(ask("none"), [204, 0, {}, [], ""])
        self.assertEqual(ask("text"), [200, 0, {"content-type": text}, ["grün".encode()], ""])
        self.assertEqual(ask("empty"), [200, 0, {"content-type": text}, [], ""])
        self.assertEqual(ask("bytes"), [200, 0, {"content-type": octets}, [b"\xff"], ""])
        self.assertEqual(ask("number"), [200, 0, {"content-type": as_json}, [b"1.5"], ""])
        self.assertEqual(json.loads(ask("json")[3][0]), {"a": [1, None]})
        code, _, properties, data, _ = ask("output")
        self.assertEqual((code, properties, json.loads(data[0])), (201, {"content-type": as_json, "X-Of-Ours": "5"}, [2]))
        self.assertEqual(ask("batch")[3], [b"x"])
        self.assertEqual([len(piece) for piece in ask("long")[3]], [1 << 20, 1 << 20, 1 << 19])
        self.assertEqual(ask("surrogate")[2]["k"], "?")

    def test_what_goes_wrong(self):
        gateway = self.check(KINDS)
        gateway.load()
        for what, code, error in (("error", 424, "mine"), ("raise", 424, "ZeroDivisionError: division by zero"), ("bare", 503, "later"),
                                  ("breaks_at_once", 424, "ValueError: before the first")):  # fmt: skip
            found, outcome = gateway.ask(what)
            self.assertEqual((found[0][0], found[0][4], outcome), (code, "", 0))
            self.assertEqual({"code": code, "error": error}, {k: json.loads(found[0][3][0])[k] for k in ("code", "error")})
        self.assertEqual(gateway.ask("memory")[0][0][0], 507)
        self.assertEqual(gateway.ask("breaks")[0][0][3:], [[b"begun"], "ValueError: in the middle"])
        self.assertEqual(gateway.ask("text")[0][0][0], 200)  # and it goes on
        output = gateway.output()
        self.assertIn("asked for raise\n", output)
        self.assertIn("ZeroDivisionError", output)

    def test_streams(self):
        gateway = self.check(KINDS)
        gateway.load()
        self.assertEqual(gateway.ask("numbers")[0][0], [200, 1, {"content-type": "application/jsonlines"}, [b"one ", b"two ", b'{"three": 3}\n'], ""])
        self.assertEqual(gateway.ask("later")[0][0][3], [b"0", b"1", b"2"])
        self.assertEqual(gateway.ask("formatted")[0][0][3], [b"<1>", b"<2>"])

    def test_a_stream_is_left_when_its_client_has_left(self):
        gateway = self.check("""
            import itertools, time
            def count():
                try:
                    for i in itertools.count():
                        time.sleep(0.01)
                        yield str(i)
                finally:
                    print("closed")
            def handle(inputs):
                return None if inputs.is_empty() else count()
        """)
        gateway.load()
        gateway.predict("go")
        self.assertEqual(gateway.next()[0], frames.HEAD)
        gateway.send(frames.CANCEL, frames.u64(0))
        last = None
        while last != frames.CALLED:
            last = gateway.next()[0]
        self.assertIn("closed", gateway.output())

    def test_async_handlers_share_a_loop(self):
        gateway = self.check("""
            import asyncio
            loops = []
            async def handle(inputs):
                loops.append(asyncio.get_running_loop())
                await asyncio.sleep(0)
                return str(len(set(map(id, loops))))
        """)
        self.assertEqual(gateway.load(), "ready")
        self.assertEqual(gateway.ask("x")[0][0][3], [b"1"])
        self.assertEqual(gateway.ask("x")[0][0][3], [b"1"])

    def test_the_first_call_has_the_options(self):
        gateway = self.check("""
            from djl_python import Output
            def serve(inputs):
                if inputs.is_empty():
                    serve.options = inputs.get_properties()
                    return None
                return Output().add_as_json([serve.options, inputs.get_property("model_dir"), inputs.get_property("model_id")])
        """, "--entry-point", "other.py", "--handler", "serve", file="other.py")  # fmt: skip
        self.assertEqual(gateway.load({"model_dir": "/m", "model_id": "opt"}), "ready")
        self.assertEqual(json.loads(gateway.ask("x")[0][0][3][0]), [{"model_dir": "/m", "model_id": "opt"}, "/m", None])

    def test_what_cannot_be_loaded(self):
        for model, arguments, why in (
            ("import nowhere_to_be_found", [], "ModuleNotFoundError"),
            ("x = (", [], "SyntaxError"),
            ("import sys; sys.exit(3)", [], "SystemExit: 3"),
            ("def other(inputs): pass", [], "AttributeError: model.py has no function 'handle'"),
            ("def handle(inputs): raise ValueError('no weights')", [], "ValueError: no weights"),
            ("from djl_python import Output\ndef handle(inputs): return Output().error('no')", [], "answered the empty first call with 424"),
            ("", ["--entry-point", "gone.py"], "FileNotFoundError"),
            ("", ["--entry-point", "gone.module"], "ModuleNotFoundError"),
        ):
            gateway = self.check(model, *arguments)
            self.assertIn(why, gateway.load())
            self.assertEqual(gateway.process.wait(PATIENCE_S), 1)

    def test_batches(self):
        gateway = self.check("""
            from djl_python import Output
            def handle(inputs):
                if inputs.is_empty():
                    return None
                outputs = Output()
                for i, one in enumerate(inputs.get_batches()):
                    text = one.get_as_string()
                    if text == "raise":
                        raise ValueError("one of them")
                    if text == "refuse":
                        return Output().error("one of them")
                    if text == "list":
                        return [Output().add(other.get_as_string() * 2) for other in inputs.get_batches()]
                    if text != "forget":
                        outputs.add(text.upper() + one.get_property("n"), key="data", batch_index=i)
                return outputs
        """)
        gateway.load()
        found, outcome = gateway.ask("a", "b", "c")
        self.assertEqual(({number: answer[3] for number, answer in found.items()}, outcome), ({0: [b"A0"], 1: [b"B1"], 2: [b"C2"]}, 0))
        self.assertEqual(gateway.ask("list", "b")[0][1][3], [b"bb"])
        self.assertEqual(gateway.ask("a")[0][0][3], [b"A0"])
        self.assertEqual(gateway.ask("a", "raise"), ({}, 1))
        self.assertEqual(gateway.ask("refuse", "b"), ({}, 1))
        self.assertEqual(gateway.ask("a", "forget"), ({}, 2))

    def test_one_answer_for_a_batch(self):
        gateway = self.check("def handle(inputs):\n    return None if inputs.is_empty() else 'same'")
        gateway.load()
        self.assertEqual(gateway.ask("a", "b"), ({}, 2))
        self.assertEqual(gateway.ask("a")[0][0][3], [b"same"])

    def test_finalizers_run_after_the_answer(self):
        gateway = self.check("""
            from djl_python import Output
            def handle(inputs):
                return Output().add("x").finalize(print, "finalized", inputs.is_empty())
        """)
        gateway.load()
        gateway.ask("x")
        output = gateway.output()
        self.assertIn("finalized True", output)
        self.assertIn("finalized False", output)

    def test_another_rank_works_and_is_silent(self):
        gateway = self.check("""
            import os
            def handle(inputs):
                print("called", os.environ["RANK"], os.environ["LOCAL_RANK"], os.environ["WORLD_SIZE"])
                return "x"
        """, rank=1)  # fmt: skip
        self.assertEqual(gateway.load(), "ready")
        self.assertEqual(gateway.ask("x"), ({}, 0))
        self.assertEqual(gateway.output().count("called 1 1 2"), 2)

    def test_the_end_of_the_gateway_ends_a_handler_at_work(self):
        gateway = self.check("""
            import time
            def handle(inputs):
                if not inputs.is_empty():
                    print("working")
                    time.sleep(600)
        """)
        gateway.load()
        gateway.predict("x")
        self.assertEqual(gateway.process.stdout.readline(), b"working\n")
        gateway.stream.close()
        gateway.connection.close()
        self.assertEqual(gateway.process.wait(PATIENCE_S), 0)

    def test_a_stranger_is_hung_up_on(self):
        gateway = self.check("def handle(inputs): pass")
        gateway.connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        self.assertEqual(gateway.process.wait(PATIENCE_S), 0)

    def test_interrupts_of_a_terminal_are_ignored(self):
        gateway = self.check(KINDS)
        gateway.load()
        gateway.process.send_signal(signal.SIGINT)
        time.sleep(0.05)
        self.assertEqual(gateway.ask("text")[0][0][0], 200)


if __name__ == "__main__":
    unittest.main()
