#!/usr/bin/env python3
"""Holds an image against SageMaker's contract for containers, with podman: scripts/container-test calls it.

usage: tests/container/contract.py IMAGE --podman "podman …" --run-options "…"

Every container but one runs as a user that nobody knows, without capabilities, on a read-only root, with the model mounted
read-only and a /tmp.
"""

import argparse
import concurrent.futures
import contextlib
import http.client
import json
import os
import pathlib
import random
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PING_S = 2  # what SageMaker gives each attempt
KILL_S = 30  # from SIGTERM to SIGKILL
CLIENTS = 4
START_S = 120  # for a model of 14 MB, on a machine that does other things too
GOLDEN = json.loads((ROOT / "demo/golden.json").read_text(encoding="utf-8"))["cases"][0]
BODY = {"inputs": GOLDEN["prompt"], "parameters": {**GOLDEN["params"], "return_full_text": False}}
UNPRIVILEGED = ["--read-only", "--read-only-tmpfs=false", "--tmpfs", "/tmp:rw,exec,size=1g", "--cap-drop", "all", "--security-opt", "no-new-privileges"]
HANDLER = '''
import os

import bloomery
import numpy

from djl_python import Output

model = None


def handle(inputs):
    global model
    model = model or bloomery.load("/usr/local/share/bloomery/demo/model", dtype="f32")
    if inputs.is_empty():
        return None
    body = inputs.get_as_json()
    answer = model.generate(body["inputs"], max_new_tokens=8)
    return Output().add_as_json({"text": answer.text, "user": os.getuid(), "sum": numpy.arange(4).sum().item()})
'''


class Podman:
    def __init__(self, command, run_options, image):
        self.command, self.run_options, self.image = shlex.split(command), shlex.split(run_options), image

    def __call__(self, *arguments, seconds=120):
        run = subprocess.run([*self.command, *arguments], capture_output=True, text=True, timeout=seconds)
        if run.returncode != 0:
            raise AssertionError(f"podman {' '.join(arguments)}: status {run.returncode}\n{run.stdout}{run.stderr}")
        return run.stdout.strip()


class Container:
    """`podman run IMAGE serve`, from before it starts until it is removed."""

    def __init__(self, podman, *options, command=("serve",), model=None, environment=None):
        self.podman = podman
        self.name = f"bloomery-contract-{os.getpid()}-{random.randrange(10**6)}"
        mounts = ["--volume", f"{model}:/opt/ml/model:ro"] if model else []
        variables = [word for name, value in (environment or {}).items() for word in ("--env", f"{name}={value}")]
        self.started = time.monotonic()
        podman("run", "--detach", "--name", self.name, *podman.run_options, *mounts, *variables, *options, podman.image, *command)
        self.port = 8080 if "host" in podman.run_options else int(podman("port", self.name, "8080").rsplit(":", 1)[1])

    def request(self, method, path, body=None, timeout=120):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        with contextlib.closing(connection):
            connection.request(method, path, json.dumps(body) if body else None, {"Content-Type": "application/json"} if body else {})
            response = connection.getresponse()
            return response.status, response.read()

    def ping(self):
        """The status, or None where nobody listens: what answers must do so in PING_S."""
        try:
            return self.request("GET", "/ping", timeout=PING_S)[0]
        except (ConnectionError, http.client.RemoteDisconnected):
            return None

    def wait_ready(self):
        """Seconds from `podman run` to the first answer of /ping, and to 200."""
        first = None
        while time.monotonic() < self.started + START_S:
            status = self.ping()
            elapsed = time.monotonic() - self.started
            first = first or (status and elapsed)
            if status == 200:
                return first, elapsed
            assert status in (None, 503), (status, self.request("GET", "/ping"))
            time.sleep(0.02)
        raise AssertionError("not ready in time")

    def text(self, body=None):
        status, answer = self.request("POST", "/invocations", body or BODY)
        assert status == 200, (status, answer)
        return json.loads(answer)

    def stop(self):
        """SIGTERM, as the host sends it; seconds until the end, which must come by itself and be a clean one."""
        start = time.monotonic()
        self.podman("stop", "--time", str(KILL_S), self.name)
        elapsed = time.monotonic() - start
        status = self.podman("inspect", "--format", "{{.State.ExitCode}}", self.name)
        assert status == "0" and elapsed < KILL_S, (status, elapsed)
        return elapsed

    def log(self):
        run = subprocess.run([*self.podman.command, "logs", self.name], capture_output=True, text=True, timeout=60)
        return run.stdout + run.stderr

    def __enter__(self):
        return self

    def __exit__(self, failure, *_):
        if failure:
            print(f"the container said:\n{self.log()}", file=sys.stderr)
        self.podman("rm", "--force", "--time", "0", self.name)


def generated(answer):
    return answer["generated_text"] if isinstance(answer, dict) else answer[0]["generated_text"]


def nobody():
    user = random.randrange(2000, 60000)
    return ["--user", f"{user}:{user}", *UNPRIVILEGED]


def it_serves_what_is_mounted(podman, weights):
    with Container(podman, *nobody(), model=weights, environment={"OPTION_DTYPE": "fp32"}) as container:
        first, ready = container.wait_ready()
        assert first < PING_S, f"/ping answered first {first:.2f} s after the start"
        assert generated(container.text()) == GOLDEN["text"]
        stopped = container.stop()
    print(f"/ping answered {first:.2f} s and was 200 {ready:.2f} s after `podman run`; the golden text; idle, it stopped in {stopped:.2f} s")


def a_long_answer_outlives_sigterm(podman, weights):
    with Container(podman, *nobody(), model=weights) as container:
        container.wait_ready()
        start = time.monotonic()
        container.text({**BODY, "parameters": {"max_new_tokens": 64, "ignore_eos": True}})
        tokens = min(900, int(6 * 64 / (time.monotonic() - start)))  # six seconds' worth, as far as the context goes

        def ask(_):
            answer = container.text({**BODY, "parameters": {"max_new_tokens": tokens, "ignore_eos": True, "details": True}})
            return answer["details"]["generated_tokens"], time.monotonic()

        with concurrent.futures.ThreadPoolExecutor(CLIENTS) as clients:
            asked = clients.map(ask, range(CLIENTS))
            time.sleep(0.3)
            told = time.monotonic()
            stopped = container.stop()
        lengths, times = zip(*asked)
        assert set(lengths) == {tokens}, lengths
        assert max(times) > told, "the answers came before SIGTERM: too short to show anything"
    print(f"SIGTERM during {CLIENTS} answers of {tokens} tokens: the last of them {max(times) - told:.1f} s later, whole; exit status 0 after {stopped:.1f} s")


def a_handler_runs(podman, folder):
    code = folder / "handler"
    code.mkdir()
    (code / "model.py").write_text(HANDLER)
    (code / "serving.properties").write_text("engine=Python\n")
    (code / "requirements.txt").write_text("# nothing that would have to be fetched: pip and the virtual environment are what is tried\n")
    options = nobody()
    with Container(podman, *options, model=code) as container:
        _, ready = container.wait_ready()
        answer = container.text()
        assert answer["user"] == int(options[1].split(":")[0]) and answer["sum"] == 6, answer
        assert answer["text"] and GOLDEN["text"].startswith(answer["text"]), answer
        container.stop()
    print(f"model.py with requirements.txt, numpy and the package bloomery: ready in {ready:.1f} s, answers")


def two_ranks_serve(podman, weights):
    environment = {"OPTION_DTYPE": "fp32", "OPTION_TENSOR_PARALLEL_DEGREE": "2"}
    with Container(podman, *nobody(), model=weights, environment=environment) as container:
        _, ready = container.wait_ready()
        assert generated(container.text()) == GOLDEN["text"]
        processes = [line.split(None, 2) for line in podman("top", container.name, "pid", "state", "args").splitlines()[1:]]
        ranks = [words for words in processes if "worker" in words[2] and not words[2].startswith("mpirun")]
        assert len(ranks) == 2, processes
        mpirun = next(words[0] for words in processes if words[2].startswith("mpirun"))
        podman("exec", container.name, "sh", "-c", f"kill -9 {mpirun}")
        killed = time.monotonic()
        assert generated(container.text()) == GOLDEN["text"]
        answered = time.monotonic() - killed
        states = podman("top", container.name, "state", "args").splitlines()[1:]
        assert not [line for line in states if line.startswith("Z")], states
        container.stop()
    print(f"two ranks under mpirun: ready in {ready:.1f} s, the golden text; mpirun killed: the same text after {answered:.1f} s, and no zombie")


def what_is_fetched_lies_under_tmp(podman, weights, folder):
    archive = folder / "model.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(weights, arcname="model")
    archive.chmod(0o644)
    mount = ["--volume", f"{archive}:/opt/model.tar.gz:ro"]
    with Container(podman, *nobody(), *mount, command=("serve", "/opt/model.tar.gz", "--dtype", "f32")) as container:
        container.wait_ready()
        assert generated(container.text()) == GOLDEN["text"]
        places = podman("exec", container.name, "find", "/tmp", "-name", "model.safetensors").split()
        assert len(places) == 1, places
        container.stop()
    print(f"an archive is unpacked below /tmp ({places[0].split('/')[2]}) and served")


def models_come_and_go(podman, weights):
    """SageMaker's multi-model contract; and that nobody else may have an image load code. Each line of the log is an object."""
    with Container(podman, *nobody(), model=weights) as container:
        container.wait_ready()
        assert container.request("POST", "/models", {"model_name": "a", "url": "/opt/ml/model"})[0] == 403
        container.stop()
    mount = ["--volume", f"{weights}:/opt/ml/models/a/model:ro"]
    with Container(podman, *nobody(), *mount, environment={"SAGEMAKER_MULTI_MODEL": "true", "OPTION_DTYPE": "fp32"}) as container:
        container.wait_ready()
        assert container.request("POST", "/models", {"model_name": "a", "url": "/opt/ml/models/a/model"})[0] == 200
        status, answer = container.request("POST", "/models/a/invoke", BODY)
        assert status == 200 and generated(json.loads(answer)) == GOLDEN["text"], answer
        assert container.request("DELETE", "/models/a")[0] == 200
        container.stop()
        events = [json.loads(line) for line in container.log().splitlines()]
        assert any(event.get("path") == "/models/a/invoke" for event in events), events
    print("SageMaker's multi-model contract: a model loaded, asked and unloaded; without it 403; logs are lines of JSON")


def two_hosts_share_a_model(podman, weights, folder):
    """As deploy/kubernetes/hosts.yaml starts them, but for the volumes."""
    if "host" in podman.run_options:
        print("SKIPPED one model on two hosts: containers have no addresses of their own here")
        return
    keys = folder / "ssh"
    keys.mkdir()
    podman("run", "--rm", *podman.run_options, "--volume", f"{keys}:/keys", "--entrypoint", "ssh-keygen", podman.image, "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", "/keys/id")
    os.chown(keys / "id", 0, 1000)
    (keys / "id").chmod(0o440)
    options = ["--user", "1000:1000", *UNPRIVILEGED, "--volume", f"{keys}:/etc/bloomery/ssh:ro", "--entrypoint", '["tini", "--", "across-hosts"]']
    for cut in ("--pp", "--tp"):
        with Container(podman, *options, command=("follow",), model=weights) as second:
            address = podman("inspect", "--format", "{{.NetworkSettings.IPAddress}}", second.name)
            names = ["--hostname", "group.domain", "--add-host", f"group-1.domain:{address}"]
            variables = {"LWS_LEADER_ADDRESS": "group.domain", "LWS_GROUP_SIZE": "2"}
            lead = ("lead", "/opt/ml/model", "--dtype", "f32", cut, "2")
            with Container(podman, *options, *names, command=lead, model=weights, environment=variables) as first:
                _, ready = first.wait_ready()
                assert generated(first.text()) == GOLDEN["text"]
                ranks = [podman("top", container.name, "args").count("bloomery worker") for container in (first, second)]
                assert ranks[1] == 1, ranks
                first.stop()
    print(f"two hosts, a rank on each, over ssh and TCP (--pp 2, --tp 2): ready in {ready:.1f} s, the golden text")


def root_and_another_port(podman):
    with Container(podman, environment={"SAGEMAKER_BIND_TO_PORT": "8099"}) as container:
        ask = "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:8099/ping', timeout=2).status)"
        status = None
        while status != "200" and time.monotonic() < container.started + START_S:
            with contextlib.suppress(AssertionError):
                status = podman("exec", container.name, "python3", "-c", ask)
        assert status == "200", container.log()
        container.stop()
    print("as root, without a model and with SAGEMAKER_BIND_TO_PORT: the demo model on that port")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image")
    parser.add_argument("--podman", required=True, help="podman with its options")
    parser.add_argument("--run-options", required=True, help="what `podman run` needs on this machine")
    arguments = parser.parse_args()
    podman = Podman(arguments.podman, arguments.run_options, arguments.image)
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        folder.chmod(0o755)
        weights = folder / "weights"
        shutil.copytree(ROOT / "demo/model", weights)
        it_serves_what_is_mounted(podman, weights)
        a_long_answer_outlives_sigterm(podman, weights)
        a_handler_runs(podman, folder)
        two_ranks_serve(podman, weights)
        what_is_fetched_lies_under_tmp(podman, weights, folder)
        models_come_and_go(podman, weights)
        two_hosts_share_a_model(podman, weights, folder)
        root_and_another_port(podman)


main()
