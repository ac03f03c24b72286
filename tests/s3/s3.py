"""The end-to-end test of storage; see run."""

import contextlib
import http.server
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

import boto3
import botocore.config

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from fault_proxy import FaultProxy  # noqa: E402
from serving import BLOOMERY, ROOT  # noqa: E402

BUCKET = "models"
PART = 16 << 20  # of bloomery
CLI_PARTS = 5  # that the AWS CLI, with its 8 MiB, cuts model-00001.bin into
ODD_NAMES = ["with space.txt", "a=b+c&d.txt", "ünïcödé/模型.bin", "percent%20.txt", "tilde~(1).txt"]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def moto():
    """A moto server; yields its port."""
    port = free_port()
    server = subprocess.Popen(["moto_server", "-H", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.1)
        yield port
    finally:
        server.terminate()
        server.wait()


def clean_environment():
    """No credentials or settings of whoever runs this."""
    keep = {name: value for name, value in os.environ.items() if not name.startswith("AWS_") and "proxy" not in name.lower()}
    return {**keep, "HOME": str(FOLDER / "home"), "AWS_EC2_METADATA_DISABLED": "true"}


class Users:
    """Two users of the server, before it checks: one may do everything, the other only list."""

    def __init__(self, port):
        def client(service):
            return boto3.client(service, endpoint_url=f"http://127.0.0.1:{port}", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x",
                                config=botocore.config.Config(s3={"addressing_style": "path"}))  # fmt: skip

        client("s3").create_bucket(Bucket=BUCKET)
        self.keys = {}
        for name, actions in (("all", "s3:*"), ("lister", "s3:ListBucket")):
            client("iam").create_user(UserName=name)
            policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": actions, "Resource": "*"}]}
            client("iam").put_user_policy(UserName=name, PolicyName="p", PolicyDocument=json.dumps(policy))
            key = client("iam").create_access_key(UserName=name)["AccessKey"]
            self.keys[name] = (key["AccessKeyId"], key["SecretAccessKey"])
        # Two sessions of a role, whose keys come with a token.
        trust = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}]}
        role = client("iam").create_role(RoleName="reader", AssumeRolePolicyDocument=json.dumps(trust))["Role"]
        policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
        client("iam").put_role_policy(RoleName="reader", PolicyName="p", PolicyDocument=json.dumps(policy))
        self.sessions = [client("sts").assume_role(RoleArn=role["Arn"], RoleSessionName=f"session-{number}")["Credentials"] for number in range(2)]
        request = urllib.request.Request(f"http://127.0.0.1:{port}/moto-api/reset-auth", data=b"0", headers={"Content-Type": "text/plain"})
        urllib.request.urlopen(request).read()

    def environment(self, name="all", **more):
        key, secret = self.keys[name]
        return {**clean_environment(), "AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret, "AWS_REGION": "us-east-1", **more}


def start(*arguments, port, user="all", **more):
    environment = USERS.environment(user, AWS_ENDPOINT_URL_S3=f"http://127.0.0.1:{port}")
    environment.update(more)
    return subprocess.Popen([BLOOMERY, *map(str, arguments)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    out, err = process.communicate(timeout=300)
    for secret in [secret for _, secret in USERS.keys.values()] + [session["SecretAccessKey"] for session in USERS.sessions]:
        assert secret not in out + err, "a secret was printed"
    return process.returncode, out, err


def bloomery(*arguments, **options):
    return finish(start(*arguments, **options))


def done(*arguments, **options):
    status, out, err = bloomery(*arguments, **options)
    assert status == 0, (arguments, status, out, err)
    return out


def refused(expected, *arguments, **options):
    status, out, err = bloomery(*arguments, **options)
    assert status not in (0, -signal.SIGSEGV, -signal.SIGABRT) and expected in err, (expected, status, out, err)


def aws(*arguments):
    environment = USERS.environment(AWS_DEFAULT_REGION="us-east-1")
    subprocess.run(["aws", "--endpoint-url", f"http://127.0.0.1:{PORT}", *map(str, arguments)], env=environment, check=True, stdout=subprocess.DEVNULL)


def tree(folder):
    """Every file's bytes, without what downloads leave for themselves."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".bloomery-")}


def fresh(name):
    path = FOLDER / name
    shutil.rmtree(path, ignore_errors=True)
    return path


def same(folder, expected=None):
    got = tree(folder)
    expected = expected or tree(MODEL)
    assert got.keys() == expected.keys(), got.keys() ^ expected.keys()
    for name in got:
        assert got[name] == expected[name], f"{name} differs"
    assert not pathlib.Path(f"{folder}.partial").exists() and not pathlib.Path(f"{folder}.lock").exists()


def make_model(folder):
    shuffle = random.Random(1)
    (folder / "sub").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "empty").write_bytes(b"")
    (folder / "small.bin").write_bytes(shuffle.randbytes(3_000_000))
    (folder / "model-00001.bin").write_bytes(shuffle.randbytes(2 * PART + 12345))
    (folder / "sub/exact.bin").write_bytes(shuffle.randbytes(PART))
    for name in ODD_NAMES:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(shuffle.randbytes(1000))


def test_downloads():
    aws("s3", "cp", "--recursive", MODEL, f"s3://{BUCKET}/opt")
    (FOLDER / "sibling.bin").write_bytes(b"not of opt")
    aws("s3", "cp", FOLDER / "sibling.bin", f"s3://{BUCKET}/opt-30b/sibling.bin")
    for uri in (f"s3://{BUCKET}/opt", f"s3://{BUCKET}/opt/"):
        out = done("download", uri, fresh("down"), port=PORT)
        same(FOLDER / "down")
        assert "checked by their size alone" not in out, out
    assert "already" in done("download", f"s3://{BUCKET}/opt/", FOLDER / "down", port=PORT)
    done("download", f"s3://{BUCKET}/opt/{ODD_NAMES[2]}", fresh("one"), port=PORT)
    same(FOLDER / "one", {"模型.bin": (MODEL / ODD_NAMES[2]).read_bytes()})
    print("uploaded by the AWS CLI, downloaded: the same bytes, odd names too, and no sibling's")

    s3 = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{PORT}", region_name="us-east-1", aws_access_key_id=USERS.keys["all"][0], aws_secret_access_key=USERS.keys["all"][1])
    name = "model-00001.bin"
    for algorithm in ("CRC32", "CRC32C", "CRC64NVME", "SHA256"):
        s3.upload_file(str(MODEL / name), BUCKET, f"sums/parts-{algorithm}", ExtraArgs={"ChecksumAlgorithm": algorithm})
        s3.put_object(Bucket=BUCKET, Key=f"sums/whole-{algorithm}", Body=(MODEL / name).read_bytes(), ChecksumAlgorithm=algorithm)
    out = done("download", f"s3://{BUCKET}/sums", fresh("sums"), port=PORT)
    assert "checked by their size alone" not in out, out
    assert all(data == (MODEL / name).read_bytes() for data in tree(FOLDER / "sums").values()) and len(tree(FOLDER / "sums")) == 8
    print("objects with a checksum of each kind, of the whole and of parts: all checked")

    environment = USERS.environment()
    profile = FOLDER / "home/.aws"
    profile.mkdir(parents=True)
    (profile / "credentials").write_text(f"[lab]\naws_access_key_id = {environment['AWS_ACCESS_KEY_ID']}\naws_secret_access_key = {environment['AWS_SECRET_ACCESS_KEY']}\n")
    (profile / "config").write_text(f"[profile lab]\nregion = us-east-1\nendpoint_url = http://127.0.0.1:{PORT}\n")
    nothing = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_ENDPOINT_URL_S3": "", "AWS_REGION": ""}
    done("download", f"s3://{BUCKET}/opt", fresh("down"), port=PORT, AWS_PROFILE="lab", **nothing)
    same(FOLDER / "down")
    print("with a profile's credentials, region and endpoint: the same")


def test_refusals():
    target = fresh("refused")
    opt = ("download", f"s3://{BUCKET}/opt", target)
    refused("secret access key", *opt, port=PORT, AWS_SECRET_ACCESS_KEY="wrong")
    refused("InvalidAccessKeyId", *opt, port=PORT, AWS_ACCESS_KEY_ID="AKIAWRONG")
    refused("no AWS credentials", *opt, port=PORT, AWS_ACCESS_KEY_ID="")
    refused("allow s3:GetObject on arn:aws:s3:::models/", *opt, port=PORT, user="lister")
    refused("no such bucket", "download", "s3://absent/opt", target, port=PORT)
    refused(f"s3://{BUCKET}/opt-30b/sibling.bin", "download", f"s3://{BUCKET}/opt-3", target, port=PORT)
    refused("is no S3 URI", "download", "https://models/opt", target, port=PORT)
    refused("127.0.0.1:1/", *opt, port=1)
    assert not target.exists()
    print("wrong secrets, denied actions, absent buckets and prefixes: said, and nothing is shown")


def test_faults():
    def fault(number, method, path):
        return {0: "busy", 2: "reset", 4: "truncate"}.get(number % 6)

    PROXY.clear()
    PROXY.fault = fault
    done("download", f"s3://{BUCKET}/opt", fresh("down"), port=PROXY.port)
    same(FOLDER / "down")
    print(f"with every second answer a 503, a reset or cut short: the same bytes ({len(PROXY.requests)} requests)")

    PROXY.clear()
    hit = set()

    def corrupt_once(number, method, path):
        if method == "GET" and "list-type" not in path and path not in hit:
            hit.add(path)
            return "corrupt"

    PROXY.fault = corrupt_once
    done("download", f"s3://{BUCKET}/opt", fresh("down"), port=PROXY.port)
    same(FOLDER / "down")
    PROXY.fault = lambda number, method, path: "corrupt" if "model-00001" in path else None
    refused("is not the one that the store has", "download", f"s3://{BUCKET}/opt", fresh("down"), port=PROXY.port)
    assert not (FOLDER / "down").exists()
    shutil.rmtree(FOLDER / "down.partial")
    print("a byte changed in each file: noticed and fetched again; changed every time: refused")


def test_slow_links():
    """A connection that brings nothing for 20 s is given up and made again; one that brings 4 KiB/s is waited for."""
    slow = FOLDER / "slow"
    slow.mkdir()
    for name, size in {"hangs.bin": 1000, "stalls.bin": 200_000, "stalls-later.bin": 2 * PART, "trickles.bin": 100_000}.items():
        (slow / name).write_bytes(random.Random(name).randbytes(size))
    aws("s3", "cp", "--recursive", slow, f"s3://{BUCKET}/slow")
    PROXY.clear()
    hit = set()

    def fault(number, method, path):
        if method == "GET" and "list-type" not in path and path not in hit:
            if "trickles" not in path:
                hit.add(path)
            return {"hangs": "hang", "stalls": "stall", "trickles": "trickle"}[path.rpartition("/")[2].split(".")[0].split("-")[0]]

    PROXY.fault = fault
    before = time.monotonic()
    done("download", f"s3://{BUCKET}/slow", fresh("down"), port=PROXY.port)
    seconds = time.monotonic() - before
    same(FOLDER / "down", tree(slow))
    assert 20 < seconds < 60, seconds
    assert PROXY.count("GET", "hangs.bin") == PROXY.count("GET", "/stalls.bin") == 2 and PROXY.count("GET", "trickles.bin") == 1, PROXY.requests
    print(f"connections that stop are made again after 20 s, one of 4 KiB/s is waited for: the same bytes in {seconds:.0f} s")


class Credentials(http.server.BaseHTTPRequestHandler):
    """What a container's agent answers: the keys of another session each time, good for years as they say."""

    given = 0

    def do_GET(self):
        session = USERS.sessions[Credentials.given % 2]
        Credentials.given += 1
        keys = {"AccessKeyId": session["AccessKeyId"], "SecretAccessKey": session["SecretAccessKey"], "Token": session["SessionToken"]}
        body = json.dumps({**keys, "Expiration": "2099-01-01T00:00:00Z"}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def test_expired_tokens():
    """The service calls a token expired that says of itself that it is not: in the middle, at the beginning, and for ever."""
    agent = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Credentials)
    threading.Thread(target=agent.serve_forever, daemon=True).start()
    container = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"http://127.0.0.1:{agent.server_port}/role"}
    opt = ("download", f"s3://{BUCKET}/opt")

    def expire_at(request):
        def fault(number, method, path):
            if number == request:
                PROXY.expired_token = USERS.sessions[0]["SessionToken"]

        return fault

    for request in (1, 6):
        PROXY.clear()
        Credentials.given = 0
        PROXY.fault = expire_at(request)
        done(*opt, fresh("down"), port=PROXY.port, **container)
        same(FOLDER / "down")
        assert Credentials.given == 2 and len(PROXY.requests) > request, (Credentials.given, PROXY.requests)
    PROXY.clear()
    session = USERS.sessions[1]
    PROXY.expired_token = session["SessionToken"]
    forever = {"AWS_ACCESS_KEY_ID": session["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": session["SecretAccessKey"], "AWS_SESSION_TOKEN": session["SessionToken"]}
    refused("(ExpiredToken): the service does not accept the credentials from", *opt, fresh("down"), port=PROXY.port, **forever)
    assert not (FOLDER / "down").exists()
    agent.shutdown()
    print("a token that expires at the first or in the middle of the requests: others are fetched, once; where there are none: said")


# A disk of its own for a command; what is in it afterwards is listed.
SMALL_DISK = """
set -u
disk=$1 size=$2; shift 2
mount -t tmpfs -o size="$size" small "$disk" || exit 77
"$@" 3>&1
status=$?
find "$disk" -maxdepth 1 -mindepth 1 -printf 'left: %f\n'
exit $status
"""
# Fills the disk when the download has begun, and has room again for the second start.
FILL = """
"$0" download "$1" "$2/down" --connections 1 & pid=$!
until [ -e "$2/down.partial/empty" ]; do sleep 0.05; done
cat /dev/zero >"$2/fill" 2>/dev/null
wait $pid && exit 1
[ ! -e "$2/down" ] || exit 2
rm "$2/fill"
exec "$0" download "$1" "$2/down"
"""


def test_full_disks():
    """Too small from the beginning, and filled by somebody else meanwhile."""
    disk = FOLDER / "disk"
    disk.mkdir()

    def on_disk(size, *command, port):
        environment = USERS.environment(AWS_ENDPOINT_URL_S3=f"http://127.0.0.1:{port}")
        namespace = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", SMALL_DISK, "sh", str(disk), size]
        return subprocess.run([*namespace, *map(str, command)], env=environment, capture_output=True, text=True, timeout=300)

    small = on_disk("40m", BLOOMERY, "download", f"s3://{BUCKET}/opt", disk / "down", port=PORT)
    if small.returncode == 77 or "unshare" in small.stderr:
        return print(f"SKIPPED: full disks: {small.stderr.strip()}")
    assert small.returncode not in (0, -signal.SIGABRT) and "bytes are needed and" in small.stderr, small
    assert "left: down\n" not in small.stdout, small.stdout
    PROXY.clear()
    PROXY.bytes_per_second = 40_000_000
    filled = on_disk("80m", "sh", "-c", FILL, BLOOMERY, f"s3://{BUCKET}/opt", disk, port=PROXY.port)
    assert filled.returncode == 0 and "No space left on device" in filled.stderr and "left: down\n" in filled.stdout, filled
    print("a disk that is too small is said before, one that is filled meanwhile when it is; with room again the same command goes on")


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not come about in time"
        time.sleep(0.01)


def test_interruptions():
    for how, status in ((signal.SIGKILL, -9), (signal.SIGINT, 130)):
        PROXY.clear()
        PROXY.bytes_per_second = 8_000_000
        target, journal = fresh("down"), FOLDER / "down.partial/.bloomery-download.journal"
        process = start("download", f"s3://{BUCKET}/opt", target, "--connections", 2, port=PROXY.port)
        wait_until(lambda: journal.exists() and b"model-00001" in journal.read_bytes())
        before = time.monotonic()
        process.send_signal(how)
        got, _, err = finish(process)
        assert got == status, (got, err)
        assert time.monotonic() - before < 3 and not target.exists()
        assert how == signal.SIGKILL or "the same command goes on from here" in err, err
        PROXY.forget_dead()
        out = done("download", f"s3://{BUCKET}/opt", target, port=PROXY.port)
        same(target)
        assert "were there from an interrupted download" in out, out
        assert PROXY.count("GET", r"model-00001\.bin$") < CLI_PARTS, PROXY.requests
        print(f"{how.name} halfway: nothing shown; the same command fetched the rest: {out.strip().splitlines()[-1].strip()}")


def test_once_per_host():
    PROXY.clear()
    PROXY.bytes_per_second = 20_000_000
    target = fresh("down")
    processes = [start("download", f"s3://{BUCKET}/opt", target, port=PROXY.port) for _ in range(4)]
    outs = [finish(process) for process in processes]
    assert all(status == 0 for status, _, _ in outs), outs
    assert sum("already" in out for _, out, _ in outs) == 3, outs
    same(target)
    assert PROXY.count("GET", r"model-00001\.bin$") == CLI_PARTS, PROXY.requests
    print("four processes at once: one downloads, the others wait and use what it has")


def test_uploads():
    PROXY.clear()
    out = done("upload", MODEL, f"s3://{BUCKET}/up/model", port=PROXY.port)
    assert "were there" not in out
    back = fresh("back")
    aws("s3", "cp", "--recursive", f"s3://{BUCKET}/up/model", back)
    same(back)
    done("download", f"s3://{BUCKET}/up/model", fresh("down"), port=PORT)
    same(FOLDER / "down")
    PROXY.clear()
    out = done("upload", MODEL, f"s3://{BUCKET}/up/model", port=PROXY.port)
    assert f"{len(tree(MODEL))} of them were there already" in out, out
    assert PROXY.count("PUT", "") == PROXY.count("POST", "") == 0, PROXY.requests
    PROXY.clear()
    PROXY.fault = lambda number, method, path: {0: "busy", 1: "reset"}.get(number % 4)
    done("upload", MODEL, f"s3://{BUCKET}/faulty/", port=PROXY.port)
    done("download", f"s3://{BUCKET}/faulty", fresh("down"), port=PORT)
    same(FOLDER / "down")
    done("upload", MODEL / "config.json", f"s3://{BUCKET}/single/", port=PORT)
    done("download", f"s3://{BUCKET}/single", fresh("down"), port=PORT)
    same(FOLDER / "down", {"config.json": b"{}"})
    refused("allow s3:PutObject", "upload", MODEL, f"s3://{BUCKET}/denied", port=PORT, user="lister")
    print("uploads: the same bytes for the AWS CLI and for us, through 503s and resets; the second sends nothing")


def test_models():
    demo = ROOT / "demo/model"
    done("upload", demo, f"s3://{BUCKET}/demo", port=PORT)
    cache = fresh("cache")
    here = json.loads(done("info", demo, "--json", port=PORT))
    PROXY.clear()
    there = json.loads(done("info", f"s3://{BUCKET}/demo", "--json", port=PROXY.port, BLOOMERY_CACHE=str(cache)))
    assert {**there, "model": ""} == {**here, "model": ""} and there["model"] == "demo", (here, there)
    fetched = PROXY.count("GET", r"/demo/")
    text = ("--prompt", "It was", "--max-new-tokens", 8)
    assert done("generate", f"s3://{BUCKET}/demo", *text, "--cache-dir", cache, port=PROXY.port) == done("generate", demo, *text, port=PORT)
    assert PROXY.count("GET", r"/demo/") == fetched, "fetched twice"
    assert done("tokenize", f"s3://{BUCKET}/demo/", "--text", "It was", port=PORT, BLOOMERY_CACHE=str(cache)) == done("tokenize", demo, "--text", "It was", port=PORT)
    done("info", f"s3://{BUCKET}/demo", port=PORT)
    assert list((FOLDER / "home/.cache/bloomery/models").rglob("config.json"))
    print("s3:// for MODEL: downloaded once into the cache, and the same model")


def test_shards():
    """A set made straight for a bucket: its manifest comes last, an interrupted one goes on, and nothing stays here."""
    demo, cache = ROOT / "demo/model", fresh("shard-cache")
    shard = ("shard", demo, "--dtype", "int8", "--tp", 2, "--cache-dir", cache, "--output", f"s3://{BUCKET}/set")
    PROXY.clear()
    PROXY.fault = lambda number, method, path: "hang" if method == "PUT" and "rank-1" in path else None
    process = start(*shard, port=PROXY.port)
    wait_until(lambda: PROXY.count("PUT", "rank-1") > 0)
    process.kill()
    finish(process)
    assert len(list(cache.rglob("manifest.json"))) == 1 and PROXY.count("PUT", "manifest.json") == 0
    PROXY.forget_dead()
    out = done(*shard, port=PROXY.port)
    assert "verified" in out, out
    puts = [path.rpartition("/")[2] for method, path in PROXY.requests if method == "PUT"]
    assert puts[-1] == "manifest.json" and len(puts) == len(set(puts)) and any("rank-1" in name for name in puts), puts
    assert not [path for path in cache.rglob("*") if path.is_file()], list(cache.rglob("*"))
    local = fresh("set")
    done(*shard[:-1], local, port=PORT)
    done("download", f"s3://{BUCKET}/set", fresh("down"), port=PORT)
    same(FOLDER / "down", tree(local))
    text = ("--prompt", "It was", "--max-new-tokens", 8)
    assert done("generate", f"s3://{BUCKET}/set", "--load-format", "s3-stream", *text, port=PORT) == done("generate", local, *text, port=PORT)
    refused("holds a set of shards", *shard, port=PORT)
    refused("no such bucket", *shard[:-1], "s3://absent/set", port=PORT)
    print("a set of shards made straight for a bucket, killed while it is sent and started again: the same files as made here, the manifest last")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, moto() as PORT:
        FOLDER = pathlib.Path(folder)
        (FOLDER / "home").mkdir()
        USERS = Users(PORT)
        PROXY = FaultProxy(PORT)
        MODEL = FOLDER / "model"
        MODEL.mkdir()
        make_model(MODEL)
        for test in (test_downloads, test_refusals, test_faults, test_slow_links, test_expired_tokens, test_full_disks, test_interruptions, test_once_per_host, test_uploads, test_models, test_shards):
            test()
