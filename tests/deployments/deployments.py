"""The end-to-end test of deployments; see run."""

import contextlib
import hashlib
import http.server
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading

import boto3
import botocore.config
import huggingface_hub
import numpy
import safetensors.numpy

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "s3"))
from serving import BLOOMERY, ROOT, Server  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
DEMO = ROOT / "demo/model"
EXTRA = "onnx/model.onnx"
COMMIT = "5d2d3a8d8d1f6a9a2f4b7c6e1d0c9b8a7f6e5d4c"
PROMPT = "Amazon.com is the best"
DEGREES = (1, 2)
RANKS = "one rank and two"


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub's HTTP API as downloading a model takes: one model, whose weights are a large file elsewhere, with a folder in it for other programs."""

    protocol_version = "HTTP/1.1"
    asked = []
    extra = pathlib.Path()  # onnx/model.onnx lies here

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.partition("?")[0]
        Hub.asked.append(path)
        if re.fullmatch("/api/models/facebook/opt-30b(/revision/main|/revision/" + COMMIT + ")?", path):
            return self.send(json.dumps({"id": "facebook/opt-30b", "sha": COMMIT, "siblings": [self.describe(DEMO, file) for file in sorted(DEMO.iterdir())] + [self.describe(Hub.extra, Hub.extra / EXTRA)]}).encode())
        found = re.fullmatch("/facebook/opt-30b/resolve/(main|" + COMMIT + ")/(.+)", path)
        if found and found[2] == EXTRA:
            return self.send_file(Hub.extra / EXTRA)
        if found and (DEMO / found[2]).exists():
            return self.send_file(DEMO / found[2])
        return self.send(b"", 404)

    @staticmethod
    def etag(file):
        contents = file.read_bytes()
        if file.suffix == ".safetensors":
            return hashlib.sha256(contents).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(contents) + contents).hexdigest()

    @classmethod
    def describe(cls, root, file):
        size = file.stat().st_size
        lfs = {"lfs": {"size": size, "sha256": cls.etag(file), "pointerSize": 134}} if file.suffix == ".safetensors" else {}
        return {"rfilename": str(file.relative_to(root)), "size": size, "blobId": cls.etag(file) if not lfs else "0" * 40, **lfs}

    def send_file(self, file):
        contents = file.read_bytes()
        headers = {"ETag": f'"{self.etag(file)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not wanted:
            return self.send(contents, 200, headers)
        begin, end = int(wanted[1]), int(wanted[2] or len(contents) - 1)
        headers["Content-Range"] = f"bytes {begin}-{end}/{len(contents)}"
        return self.send(contents[begin : end + 1], 206, headers)

    def send(self, contents, status=200, headers=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(contents)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(contents)


@contextlib.contextmanager
def hub():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@contextlib.contextmanager
def environment(**more):
    before = dict(os.environ)
    os.environ.update(more)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def make_bloom(folder):
    """A BLOOM of two layers with the demo model's tokenizer: the tiny checkpoint of the goldens, its vocabulary made larger."""
    source = ROOT / "testdata/models/bloom"
    shutil.copytree(DEMO, folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json", "generation_config.json"))
    config = json.loads((source / "config.json").read_text())
    config["vocab_size"] = json.loads((DEMO / "config.json").read_text())["vocab_size"]
    (folder / "config.json").write_text(json.dumps(config))
    tensors = safetensors.numpy.load_file(source / "model.safetensors")
    name = next(name for name in tensors if name.endswith("word_embeddings.weight"))
    tensors[name] = numpy.random.default_rng(1).normal(0, 0.3, (config["vocab_size"], config["hidden_size"])).astype(numpy.float32)
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")


def generated(model, prompt, tokens, *flags):
    """What one rank says to it, in f32: what every deployment must answer."""
    command = [BLOOMERY, "generate", str(model), "--dtype", "f32", "--prompt", prompt, "--max-new-tokens", str(tokens), *flags]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.removesuffix("\n")


def aws(*arguments):
    subprocess.run(["aws", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def publish(folder, url, properties, *files):
    """model.tar.gz as the notebooks make it, one top-level directory, where they put it: in S3."""
    (folder / "serving.properties").write_text(properties)
    with tarfile.open(folder / "model.tar.gz", "w:gz") as tar:
        for file in (folder / "serving.properties", *files):
            tar.add(file, f"code/{file.name}")
    aws("s3", "cp", folder / "model.tar.gz", url)
    return url


def invoke(server, body, content_type="application/json"):
    connection = server.connect()
    connection.request("POST", "/invocations", body if isinstance(body, bytes) else json.dumps(body), {"Content-Type": content_type})
    response = connection.getresponse()
    answer = response.read()
    assert response.status == 200, (response.status, answer)
    return json.loads(answer)


def opt_without_code(folder, bucket, endpoint):
    """Fixture 1: a hub's model, DeepSpeed's entry point, four variables."""
    text = generated(DEMO, PROMPT, 12)
    for degree in DEGREES:
        cache = folder / f"hub-{degree}"
        properties = f"engine = DeepSpeed\noption.entryPoint=djl_python.deepspeed\noption.tensor_parallel_degree={degree}\noption.model_id=facebook/opt-30b\noption.dtype=fp32\n"
        url = publish(folder, f"s3://{bucket}/code/opt-plain-{degree}/model.tar.gz", properties)
        with environment(HUGGINGFACE_HUB_CACHE=str(cache), TRANSFORMERS_CACHE=str(cache), HF_ENDPOINT=endpoint), Server(url) as server:
            plain = invoke(server, PROMPT.encode(), "text/plain")
            listed = invoke(server, {"inputs": [PROMPT, "It was"], "parameters": {"max_new_tokens": 12, "do_sample": False}})
            assert "generated_text" in json.dumps(plain), plain
            first = listed[0][0] if isinstance(listed[0], list) else listed[0]
            assert first["generated_text"] in (text, PROMPT + text), (listed, text)
    print(f"OPT from the hub, no code: {RANKS}, text and JSON")
    return folder / "hub-1"


def cache_is_the_hubs_own(folder, endpoint, ours):
    """huggingface_hub finds what we downloaded, and we what it downloads."""
    name, asked = "facebook/opt-30b", len(Hub.asked)
    found = huggingface_hub.snapshot_download(name, cache_dir=ours, local_files_only=True)
    assert (pathlib.Path(found) / "model.safetensors").read_bytes() == (DEMO / "model.safetensors").read_bytes()
    theirs = folder / "theirs"
    snapshot = pathlib.Path(huggingface_hub.snapshot_download(name, cache_dir=theirs, endpoint=endpoint))

    def layout(cache):
        root = cache / "models--facebook--opt-30b"
        links = {str(path.relative_to(root)): os.readlink(path) for path in root.rglob("*") if path.is_symlink()}
        return links, {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and not path.is_symlink()}

    # What lies in folders is for other programs, and not fetched by us; huggingface_hub adds it to what we have.
    assert not [path for path in Hub.asked[:asked] if EXTRA in path]
    asked = len(Hub.asked)
    assert layout(ours) != layout(theirs)
    huggingface_hub.snapshot_download(name, cache_dir=ours, endpoint=endpoint)
    assert {path for path in Hub.asked[asked:] if "/resolve/" in path} == {f"/{name}/resolve/{COMMIT}/{EXTRA}"}, Hub.asked[asked:]
    assert layout(ours) == layout(theirs), (layout(ours), layout(theirs))
    asked = len(Hub.asked)
    with environment(HF_HUB_CACHE=str(theirs), HF_HUB_OFFLINE="1"):
        assert generated(name, PROMPT, 5) == generated(snapshot, PROMPT, 5)
    assert len(Hub.asked) == asked
    print("the cache is huggingface_hub's, link by link; each reads the other's")


def opt_with_code(folder, bucket):
    """Fixture 2: weights that the handler's first rank fetches itself."""
    code = HERE / "opt_with_code"
    url = publish(folder, f"s3://{bucket}/code/opt/model.tar.gz", "engine = DeepSpeed\n", code / "model.py", code / "requirements.txt")
    for degree in DEGREES:
        weights = folder / f"weights-{degree}"
        variables = {"MODEL_S3_BUCKET": bucket, "MODEL_S3_PREFIX": "opt-30b/model", "TENSOR_PARALLEL_DEGREE": str(degree), "MODEL_FOLDER": str(weights)}
        with environment(**variables), Server(url) as server:
            answer = invoke(server, PROMPT.encode(), "text/plain")
        assert answer == [{"generated_text": PROMPT + generated(DEMO, PROMPT, 12)}], answer
        assert not (weights / "OTHER").exists(), "a sibling prefix was taken"
    print(f"OPT with code: weights in S3, text in, a pipeline's list out; {RANKS}")


def bloom_batches(folder, bucket, bloom):
    """Fixture 3: requests of several clients in one call, beams."""
    gen_kwargs = {"min_length": 5, "max_new_tokens": 8, "temperature": 0.8, "num_beams": 5, "no_repeat_ngram_size": 2}
    prompts = ["It was", "He said", "The sea", "A"]
    flags = ("--min-length", "5", "--num-beams", "5", "--no-repeat-ngram-size", "2")
    expected = [prompt + generated(bloom, prompt, 8, *flags) for prompt in prompts]
    for degree in DEGREES:
        properties = f"engine = DeepSpeed\noption.s3url = s3://{bucket}/bloom/\noption.tensor_parallel_degree = {degree}\nbatch_size = 50\nmax_batch_delay = 10\noption.pythonExecutable={sys.executable}\n"
        url = publish(folder, f"s3://{bucket}/code/bloom-batches-{degree}/model.tar.gz", properties, HERE / "bloom_batches/model.py")
        with Server(url) as server:
            assert invoke(server, {"input": prompts, "gen_kwargs": gen_kwargs, "padding": True}) == expected
            answers, sizes = {}, []

            def client(i):
                status, headers, body = server.request("POST", "/invocations", {"input": prompts[i % len(prompts)], "gen_kwargs": gen_kwargs})
                answers[i] = (status, json.loads(body))
                sizes.append(int(headers.get("X-Batch-Size", 0)))

            clients = [threading.Thread(target=client, args=(i,)) for i in range(16)]
            [thread.start() for thread in clients]
            [thread.join() for thread in clients]
            assert answers == {i: (200, [expected[i % len(prompts)]]) for i in range(16)}, answers
            assert max(sizes) > 1, sizes
    print(f"BLOOM with code: lists of texts by beams, in batches; {RANKS}")


def bloom_without_code(folder, bucket, bloom):
    """Fixture 4 without its model.py: option.s3url."""
    expected = generated(bloom, "It was", 8)
    for degree in DEGREES:
        properties = f"engine=DeepSpeed\noption.s3url = s3://{bucket}/bloom/\noption.tensor_parallel_degree={degree}\noption.dtype=fp32\n"
        url = publish(folder, f"s3://{bucket}/code/bloom-plain-{degree}/model.tar.gz", properties)
        with Server(url, "--batch-shape", "outputs", "--cache-dir", str(folder / f"cache-{degree}")) as server:
            answer = invoke(server, {"inputs": ["It was", "He said"], "parameters": {"max_new_tokens": 8}})
        assert len(answer["outputs"]) == 2 and expected in json.dumps(answer["outputs"][0], ensure_ascii=False), (answer, expected)
    print(f"BLOOM from S3, no code: {RANKS}")


def bloom_with_code(folder, bucket, bloom):
    """Fixture 4: option.s3url and a model.py that reads where it was downloaded to."""
    prompts, flags = ["It was", "He said"], ("--min-length", "1", "--num-beams", "2", "--no-repeat-ngram-size", "2")
    expected = {"outputs": [generated(bloom, prompt, 8, *flags) for prompt in prompts]}
    parameters = {"min_length": 1, "max_new_tokens": 8, "num_beams": 2, "no_repeat_ngram_size": 2}
    for degree in DEGREES:
        properties = f"engine=DeepSpeed\noption.s3url = s3://{bucket}/bloom/\noption.tensor_parallel_degree={degree}\noption.pythonExecutable={sys.executable}\n"
        url = publish(folder, f"s3://{bucket}/code/bloom-{degree}/model.tar.gz", properties, HERE / "bloom_with_code/model.py")
        with Server(url, "--cache-dir", str(folder / "cache-code")) as server:
            assert invoke(server, {"inputs": prompts, "parameters": parameters}) == expected
    print(f"BLOOM with code: option.s3url, beams; {RANKS}")


def rank_of(server, number):
    """The process that is this rank of the server's only worker: the server's folder is among its arguments."""
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            ours = f"bloomery-{server.process.pid}-".encode() in (path / "cmdline").read_bytes()
            if ours and f"OMPI_COMM_WORLD_RANK={number}".encode() in (path / "environ").read_bytes().split(b"\0"):
                return int(path.name)
    raise AssertionError(f"no rank {number}")


def ranks_stream_and_die(folder, bucket):
    """Streams of a handler on two ranks; one of them is killed while the other waits for it."""
    properties = f"engine=DeepSpeed\noption.model_id = s3://{bucket}/opt-30b/model/\noption.tensor_parallel_degree=2\noption.pythonExecutable={sys.executable}\n"
    url = publish(folder, f"s3://{bucket}/code/opt-streams/model.tar.gz", properties, HERE / "opt_streams/model.py")
    body = {"inputs": PROMPT, "parameters": {"max_new_tokens": 12}}
    expected = generated(DEMO, PROMPT, 12)

    def streamed():
        status, headers, text = server.request("POST", "/invocations", body)
        return status, text.decode()

    with Server(url, "--cache-dir", str(folder / "cache-streams")) as server:
        assert streamed() == (200, expected), streamed()
        connection = server.connect()
        connection.request("POST", "/invocations", json.dumps({**body, "parameters": {"max_new_tokens": 200}}), {"Content-Type": "application/json"})
        connection.getresponse().read(1)
        connection.close()  # the next call is answered all the same
        assert streamed() == (200, expected)
        one, answers = rank_of(server, 1), []
        os.kill(one, signal.SIGSTOP)
        waiting = threading.Thread(target=lambda: answers.append(streamed()))
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()
        os.kill(one, signal.SIGKILL)
        waiting.join(30)
        # Where rank 1 had not come to the end of the call before, the request was still in the queue, and is answered by the ranks that follow.
        assert answers and (answers[0][0] == 424 or answers[0] == (200, expected)), answers
        assert streamed() == (200, expected)
    print("a stream from two ranks; a client that leaves it; a killed rank costs at most the request that it was at")


def shards_stream(folder, bucket, bloom):
    """Shards from S3 into memory: no file is written, and the tokens are those of the directory."""
    shards = folder / "shards"
    subprocess.run([BLOOMERY, "shard", str(bloom), "--dtype", "f32", "--tp", "2", "--output", str(shards)], check=True, capture_output=True, timeout=60)
    subprocess.run([BLOOMERY, "upload", str(shards), f"s3://{bucket}/shards"], check=True, capture_output=True, timeout=60)
    cache = folder / "untouched"
    for degree in ("1", "2"):
        command = [BLOOMERY, "generate", f"s3://{bucket}/shards", "--load-format", "s3-stream", "--cache-dir", str(cache), "--tp", degree, "--threads", "1"]
        text = subprocess.run([*command, "--prompt", "It was", "--max-new-tokens", "8"], check=True, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL).stdout
        assert text.rstrip("\n") == generated(bloom, "It was", 8), text
    with Server(f"s3://{bucket}/shards", "--load-format", "s3-stream", "--cache-dir", str(cache)) as server:
        assert invoke(server, {"inputs": "It was", "parameters": {"max_new_tokens": 4}})
    assert not list(cache.rglob("*.safetensors")), list(cache.rglob("*"))
    print("shards from S3 straight into memory: one rank, two, and a server; no weights on the disk")


def main():
    import s3 as stores  # tests/s3: a server, and users of it

    with tempfile.TemporaryDirectory() as name, hub() as endpoint, stores.moto() as port:
        folder = pathlib.Path(name)
        stores.FOLDER = folder
        Hub.extra = folder / "extra"
        (Hub.extra / EXTRA).parent.mkdir(parents=True)
        (Hub.extra / EXTRA).write_bytes(b"not for us")
        stores.USERS = stores.Users(port)
        settings = stores.USERS.environment(AWS_ENDPOINT_URL=f"http://127.0.0.1:{port}", AWS_DEFAULT_REGION="us-east-1", PYTHONPATH=str(pathlib.Path(BLOOMERY).parent / "python"),
                                             BLOOMERY_VENVS=sys.prefix + "-handlers")  # fmt: skip
        bucket, bloom = stores.BUCKET, folder / "tiny-bloom"
        make_bloom(bloom)
        with environment(**settings):
            aws("s3", "cp", "--recursive", DEMO, f"s3://{bucket}/opt-30b/model")
            aws("s3", "cp", DEMO / "config.json", f"s3://{bucket}/opt-30b/model-other/OTHER")
            aws("s3", "cp", "--recursive", bloom, f"s3://{bucket}/bloom")
            cache_is_the_hubs_own(folder, endpoint, opt_without_code(folder, bucket, endpoint))
            opt_with_code(folder, bucket)
            bloom_batches(folder, bucket, bloom)
            bloom_without_code(folder, bucket, bloom)
            bloom_with_code(folder, bucket, bloom)
            ranks_stream_and_die(folder, bucket)
            shards_stream(folder, bucket, bloom)


main()
