"""The Python package against the program, transformers' goldens (scripts/make-goldens), and what its documentation promises."""

import json
import os
import pathlib
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import types
import warnings

import bloomery
import numpy

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
DEMO, MODELS = ROOT / "demo/model", ROOT / "testdata/models"
PROMPT = "It is a truth"
# As in tests/golden_test.cc: the largest difference of a logit from transformers' in f32; root mean squares below f32.
F32_TOLERANCE, RELATIVE_TOLERANCE = 1e-4, {"f16": 0.005, "bf16": 0.04, "int8": 0.06}


def program(*arguments):
    done = subprocess.run([os.environ["BLOOMERY"], "generate", DEMO, "--dtype", "f32", "--json", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["sequences"]


def raises(kind, code, text, call):
    try:
        call()
    except kind as error:
        assert error.code == code and text in str(error), (error.code, str(error))
    else:
        raise AssertionError(f"no {kind.__name__}")


def floats(file):
    """The f32 tensors of a safetensors file."""
    data = file.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__", None)
    return {
        name: numpy.frombuffer(data, "<f4", count=(entry["data_offsets"][1] - entry["data_offsets"][0]) // 4, offset=8 + size + entry["data_offsets"][0])
        for name, entry in header.items()
        if entry["dtype"] == "F32"
    }


def check_text(model):
    for flags, options in (
        ([], {}),
        (["--num-beams", "3", "--num-return-sequences", "2", "--no-repeat-ngram-size", "2"], {"num_beams": 3, "num_return_sequences": 2, "no_repeat_ngram_size": 2}),
        (["--temperature", "0.8", "--top-p", "0.9", "--seed", "7"], {"do_sample": True, "temperature": 0.8, "top_p": 0.9, "seed": 7}),
        (["--stop", "time", "--repetition-penalty", "1.2"], {"stop": "time", "repetition_penalty": 1.2}),
    ):
        expected = program("--prompt", PROMPT, "--max-new-tokens", "24", *flags)
        got = model.generate(PROMPT, max_new_tokens=24, **options).sequences
        assert [(s.text, s.token_ids, s.finish_reason) for s in got] == [(s["text"], s["token_ids"], s["finish_reason"]) for s in expected], options
    many = [PROMPT, "The sea", "It was the best of times, it was", "A"]
    together = model.generate(many, max_new_tokens=12)
    assert [g.text for g in together] == [model.generate(p, max_new_tokens=12).text for p in many]
    ids = model.tokenizer.encode(PROMPT)
    assert model.generate(ids, max_new_tokens=12).text == together[0].text and together[0].prompt_token_ids == ids
    assert model.generate([], max_new_tokens=3) == []
    print("generate: the program's texts, alone, together, by beams, sampled, stopped")


def check_stream(model):
    for options in ({}, {"stop": ["same time"]}, {"num_beams": 2}, {"do_sample": True, "temperature": 1.5, "seed": 3, "logprobs": 2}):
        whole = model.generate(PROMPT, max_new_tokens=24, **options)
        pieces = list(model.stream(PROMPT, max_new_tokens=24, **options))
        assert "".join(map(str, pieces)) == whole.text, options
        assert pieces[-1].finish_reason == whole.sequences[0].finish_reason
        if "logprobs" in options:
            assert [(p.token.id, p.token.logprob) for p in pieces[:-1]] == [(t.id, t.logprob) for t in whole.sequences[0].logprobs]
            assert all(p.token.logprob < 0 and len(p.top_logprobs) == 2 for p in pieces[:-1])
    stream = model.stream(PROMPT, max_new_tokens=400)
    next(stream)
    stream.close()
    print("stream: the pieces are the whole; closing cancels")


def check_goldens():
    bloomery.set_log_level("error")  # not for each of them that it has no tokenizer
    compared, largest = 0, 0.0
    for folder in sorted(MODELS.iterdir()):
        if not (folder / "golden.json").exists():
            continue
        prompts, expected = json.loads((folder / "golden.json").read_text())["prompts"], floats(folder / "golden.safetensors")
        with bloomery.load(folder, dtype="f32", max_batch_tokens=64, kv_cache_bytes=1 << 24) as model:
            for i, ids in enumerate(prompts):
                logits = model.logits(ids)
                assert logits.dtype == numpy.float32 and logits.shape == (len(ids), model.info.vocab_size)
                largest = max(largest, float(numpy.abs(logits.ravel() - expected[f"logits.{i}"]).max()))
                compared += 1
    assert compared >= 36 and largest < F32_TOLERANCE, (compared, largest)
    for dtype, tolerance in RELATIVE_TOLERANCE.items():
        for name in ("bloom", "opt", "llama"):
            want = floats(MODELS / name / "golden.safetensors")["logits.2"]
            with bloomery.load(MODELS / name, dtype=dtype, kv_cache_bytes=1 << 24) as model:
                got = model.logits(json.loads((MODELS / name / "golden.json").read_text())["prompts"][2]).ravel()
            assert numpy.sqrt(((got - want) ** 2).sum() / (want**2).sum()) < tolerance, (name, dtype)
    print(f"logits: transformers' of {compared} prompts, within {largest:.2g}")


def check_tokenizer(model):
    tokenizer = model.tokenizer
    ids = tokenizer.encode("Ein süßer Text 🙂")
    assert tokenizer.decode(ids) == "Ein süßer Text 🙂"
    batch = tokenizer([PROMPT, "A"], padding=True)
    assert batch["input_ids"][0] == tokenizer.encode(PROMPT) and tokenizer(PROMPT)["input_ids"] == batch["input_ids"][0]
    assert [len(row) for row in batch["attention_mask"]] == [len(batch["input_ids"][0])] * 2 and batch["attention_mask"][1][0] == 0
    assert tokenizer.batch_decode(batch["input_ids"]) == [PROMPT, "A"]
    print("tokenizer: round trips, batches padded on the left")


def check_pipeline(model):
    """Facts of transformers' pipeline documentation: shapes, and return_full_text on by default."""
    pipe = bloomery.pipeline(model, max_new_tokens=5)
    answer = model.generate(PROMPT, max_new_tokens=5)
    assert pipe(PROMPT) == [{"generated_text": PROMPT + answer.text}]
    assert pipe([PROMPT]) == [pipe(PROMPT)] and pipe([PROMPT, "A"]) == [pipe(PROMPT), pipe("A")]
    assert pipe(PROMPT, return_full_text=False) == [{"generated_text": answer.text}]
    assert pipe(PROMPT, return_tensors=True) == [{"generated_token_ids": answer.prompt_token_ids + answer.token_ids}]
    assert len(pipe(PROMPT, num_beams=3, num_return_sequences=3)) == 3
    with bloomery.pipeline("text-generation", model=str(DEMO), torch_dtype="float32", device=0).model as own:
        assert bloomery.pipeline(model=own)(PROMPT, max_new_tokens=5) == pipe(PROMPT)
    raises(bloomery.InvalidArgument, "invalid_argument", "colour", lambda: pipe(PROMPT, colour="red"))
    raises(bloomery.Unsupported, "unsupported", "text-generation", lambda: bloomery.pipeline(model, task="summarization"))
    print("pipeline: transformers' shapes")


def check_init_inference(model):
    class Config:
        _name_or_path = str(DEMO)

    class Stub:
        config = Config()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        engine = bloomery.init_inference(
            Stub(), mp_size=1, dtype="float32", replace_method="auto", replace_with_kernel_inject=True, injection_policy={}, zero={"stage": 3}
        )
    assert len(caught) == 1 and "injection_policy" in str(caught[0].message) and "zero" in str(caught[0].message), caught
    batch = engine.bloomery_model.tokenizer([PROMPT, "A"], padding=True)
    out = engine.module.generate(batch["input_ids"], attention_mask=batch["attention_mask"], max_new_tokens=6)
    assert out.shape == (2, len(batch["input_ids"][0]) + 6) and out[:, :-6].tolist() == batch["input_ids"]
    assert [engine.bloomery_model.tokenizer.decode(row[-6:]) for row in out] == [g.text for g in model.generate([PROMPT, "A"], max_new_tokens=6)]
    width = len(batch["input_ids"][0])
    assert engine.generate(numpy.array(batch["input_ids"][:1]), max_length=width + 2).shape == (1, width + 2)
    assert numpy.array_equal(engine([[5, 6, 7]]).logits[0], model.logits([5, 6, 7]))
    assert bloomery.pipeline(model=engine)(PROMPT, max_new_tokens=3) == bloomery.pipeline(model)(PROMPT, max_new_tokens=3)
    engine.bloomery_model.close()
    short = bloomery.init_inference(str(DEMO), config={"tensor_parallel": {"tp_size": 1}, "max_out_tokens": 32})
    assert short.bloomery_model.info.max_context_tokens == 32
    short.bloomery_model.close()
    raises(bloomery.InvalidArgument, "invalid_argument", "name_or_path", lambda: bloomery.init_inference(object()))
    print("init_inference: DeepSpeed's arguments, transformers' generate")


class FakeInput:
    """As much of djl_python's Input and Output as the guide's handlers use."""

    def __init__(self, body, properties):
        self.body, self.properties = body, properties

    def get_properties(self):
        return self.properties

    def is_empty(self):
        return self.body is None

    def get_as_string(self):
        return self.body

    def get_as_json(self):
        return self.body


class FakeOutput:
    def add_as_json(self, value):
        self.value = value
        return self


def check_handlers(model):
    """The handlers of docs/guides/python.md, as they stand there."""
    djl = types.ModuleType("djl_python")
    djl.Input, djl.Output = FakeInput, FakeOutput
    guide = (ROOT / "docs/guides/python.md").read_text(encoding="utf-8")
    handlers = {}
    sys.modules["djl_python"] = djl
    for name, code in re.findall(r"<!-- (\w+) -->\n```python\n(.*?)^```", guide, re.DOTALL | re.MULTILINE):
        exec(code, handlers.setdefault(name, {}))
    del sys.modules["djl_python"]
    properties = {"model_id": str(DEMO), "tensor_parallel_degree": "1"}

    opt = handlers["opt"]["handle"]
    assert opt(FakeInput(None, properties)) is None
    (answer,) = opt(FakeInput(PROMPT, properties)).value
    assert set(answer) == {"generated_text"} and answer["generated_text"].startswith(PROMPT) and len(answer["generated_text"]) > len(PROMPT) + 20
    handlers["opt"]["generator"].model.close()

    bloom = handlers["bloom"]["handle"]
    arguments = {"min_length": 5, "max_new_tokens": 10, "temperature": 0.8, "num_beams": 5, "no_repeat_ngram_size": 2}
    assert bloom(FakeInput(None, properties)) is None
    got = bloom(FakeInput({"input": [PROMPT, "A"], "gen_kwargs": arguments}, properties)).value
    with bloomery.load(DEMO, dtype="bf16") as same:
        assert got == [p + same.generate(p, num_beams=5, max_new_tokens=10, min_length=5, no_repeat_ngram_size=2).text for p in (PROMPT, "A")]
    assert bloom(FakeInput({"input": "A"}, properties)).value[0].startswith("A")
    handlers["bloom"]["model"].close()
    print("docs/guides/python.md: both handlers answer")


def check_errors(model):
    raises(bloomery.NotFound, "not_found", "nowhere", lambda: bloomery.load("nowhere"))
    raises(bloomery.InvalidArgument, "invalid_argument", "f99", lambda: bloomery.load(DEMO, dtype="f99"))
    raises(bloomery.InvalidArgument, "invalid_argument", "mpirun -n 2", lambda: bloomery.load(DEMO, tensor_parallel_degree=2))
    raises(bloomery.InvalidArgument, "invalid_argument", "context", lambda: model.generate(PROMPT, max_new_tokens=10**6))
    raises(bloomery.InvalidArgument, "invalid_argument", "loud", lambda: bloomery.set_log_level("loud"))
    raises(bloomery.InvalidArgument, "invalid_argument", "top_k", lambda: model.generate(PROMPT, top_k="many"))
    raises(bloomery.InvalidArgument, "invalid_argument", "colour", lambda: model.generate(PROMPT, colour="red"))
    raises(bloomery.InvalidArgument, "invalid_argument", "vocabulary", lambda: model.logits([10**7]))
    # One bad prompt of a list fails the call and leaves nothing running.
    raises(bloomery.InvalidArgument, "invalid_argument", "vocabulary", lambda: model.generate([[1, 2], [10**7]], max_new_tokens=200))
    assert model.generate(PROMPT, max_new_tokens=1).text
    closed = bloomery.load(DEMO)
    closed.close()
    closed.close()
    raises(bloomery.Unavailable, "unavailable", "closed", lambda: closed.generate(PROMPT))
    raises(bloomery.Error, "unavailable", "closed", lambda: closed.logits([1]))
    print("errors: each with its class, its code and its reason")


def settled_tasks():
    """Threads of this process; one that was joined is listed for a moment longer."""
    time.sleep(0.2)
    return len(os.listdir("/proc/self/task"))


def check_threads(model):
    """Other Python threads run while one computes, and calls from several give what each alone gives."""
    expected, got = model.generate(PROMPT, max_new_tokens=40).text, []
    threads = [threading.Thread(target=lambda: got.append(model.generate(PROMPT, max_new_tokens=40).text)) for _ in range(8)]
    threads += [threading.Thread(target=lambda: got.append(expected if model.logits([1, 2, 3]).shape[0] == 3 else "")) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [expected] * 12

    before = settled_tasks()
    with bloomery.load(DEMO, threads=2):
        assert settled_tasks() > before
    assert settled_tasks() == before
    print("threads: calls from twelve at once; none left behind by a closed model")


def check_interrupt():
    script = f"""
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts with it ignored
import bloomery
model = bloomery.load({str(DEMO)!r})
print("ready", flush=True)
try:
    model.generate(["a"] * 64, max_new_tokens=500, ignore_eos=True, num_beams=4)
except KeyboardInterrupt:
    print("interrupted", model.generate("It is", max_new_tokens=1).text != "", flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.5)
        sent = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "interrupted True\n"
        after = time.monotonic() - sent
        # The model is still open: the interpreter's end closes it.
        assert process.wait(20) == 0 and after < 5, after
    print(f"Ctrl-C: KeyboardInterrupt after {after:.2f} s, and the model goes on")


def on_two_ranks(*command):
    """The command on two ranks: what came of it."""
    mpirun = ["mpirun", "-n", "2", "--host", "localhost:2", "--bind-to", "none", "--mca", "btl", "self,vader", sys.executable]
    environment = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return subprocess.run([*mpirun, *command], capture_output=True, text=True, timeout=120, env=environment)


def check_ranks(model):
    """Two ranks, each of which calls the model: one rank's answers, on both."""
    with tempfile.TemporaryDirectory() as folder:
        done = on_two_ranks(str(ROOT / "tests/python/two_ranks.py"), str(DEMO), folder)
        assert done.returncode == 0, done.stderr
        zero, one = (json.loads((pathlib.Path(folder) / rank).read_text()) for rank in "01")

    def text(**options):
        return model.generate(PROMPT, max_new_tokens=16, **options).text

    sampled = text(do_sample=True, temperature=0.8, top_p=0.9, seed=7)
    expected = {
        "many": [g.text for g in model.generate([PROMPT, "The sea", "A"], max_new_tokens=12)],
        "beams": [s.text for s in model.generate(PROMPT, max_new_tokens=16, num_beams=3, num_return_sequences=2).sequences],
        "sampled": sampled,
        "seeds": sampled,
        "none": [],
        "stream": [str(piece) for piece in model.stream(PROMPT, max_new_tokens=16)],
        "left": [str(piece) for piece in model.stream(PROMPT, max_new_tokens=2)][:2],
        "between": text(),
        "resumed": text(),
        "pipeline": bloomery.pipeline(model)(PROMPT, max_new_tokens=5),
        "second": [[5, 6, 7, *model.generate([5, 6, 7], max_new_tokens=4).token_ids]],
        "threads": [text()] * 4,
        "after": text(),
        "one of two": ["InvalidArgument", "mpirun started 2 ranks, and tensor_parallel_degree is 1: both must be the same"],
        "bad option": ["InvalidArgument", "top_k cannot be 'many'"],
        "bad prompt": ["InvalidArgument", "a prompt is text, or a list of token ids"],
        "closed": ["Unavailable", "the model is closed"],
    }
    for rank in (zero, one):
        assert {name: rank[name] for name in expected} == expected, (rank, expected)
        assert numpy.abs(numpy.array(rank["logits"]) - model.logits([5, 6, 7, 8])[:, :50]).max() < F32_TOLERANCE
        assert rank["different"][0] == "InvalidArgument" and "same calls" in rank["different"][1], rank["different"]
        assert "context" in rank["too long"][1], rank["too long"]
    assert zero["unseeded"] == one["unseeded"]
    assert zero["one's bad option"][1] == "rank 1: " + one["one's bad option"][1], (zero, one)
    assert one["bad tokens"][1] == "rank 0: " + zero["bad tokens"][1], (zero, one)
    text_0, refused, logits, text_1 = zero["alone"]
    assert (text_0, text_1, refused) == (text(), text(), expected["bad option"]) and numpy.array(logits).shape == (2, 50)
    print("two ranks: one rank's texts, streams, logits and errors on both; threads, two models, one rank that follows")

    load = f"import bloomery, os, time; model = bloomery.load({str(DEMO)!r}, dtype='f32', tensor_parallel_degree=2); call = lambda: model.generate('A', max_new_tokens=4)\n"
    for ending, reason in (
        ("call() if model.rank == 0 else 1 / 0", "rank 1 has closed the model"),
        ("call() if model.rank == 1 else 1 / 0", "rank 0 has closed the model"),
        ("call() if model.rank == 0 else os.kill(os.getpid(), 9)", "signal 9"),
    ):
        started = time.monotonic()
        done = on_two_ranks("-c", load + ending)
        assert done.returncode != 0 and reason in done.stderr, (done.returncode, done.stderr)
        assert time.monotonic() - started < 30
    print("two ranks, one of which raises or dies: both end")


with bloomery.load(DEMO, dtype="f32") as demo:
    check_text(demo)
    check_stream(demo)
    check_tokenizer(demo)
    check_pipeline(demo)
    check_init_inference(demo)
    check_handlers(demo)
    check_errors(demo)
    check_threads(demo)
    check_ranks(demo)
check_goldens()
check_interrupt()
