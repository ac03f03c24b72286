"""How much memory a rank takes that streams its shards from S3, and whether anything is written; see run.

usage: tests/stream/run [SHAPE]     default: bloom-1b7, 0.86 GB a rank
"""

import http.server
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import xml.sax.saxutils

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from serving import BLOOMERY  # noqa: E402

SHAPE = sys.argv[1] if len(sys.argv) > 1 else "bloom-1b7"
# Beside its shards a rank has the program and its libraries, 16 connections' buffers, the KV cache, Open MPI's memory.
ALLOWED_BYTES = 256 << 20
RANKS = 2


class Store(http.server.BaseHTTPRequestHandler):
    """As much of S3 as reading takes, of one bucket that is a folder, without signatures."""

    protocol_version = "HTTP/1.1"
    folder = pathlib.Path()

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path, _, query = self.path.partition("?")
        key = urllib.parse.unquote(path).removeprefix("/bucket").lstrip("/")
        if not key:
            return self.list_objects(urllib.parse.parse_qs(query).get("prefix", [""])[0])
        size = (self.folder / key).stat().st_size
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        begin, end = (int(wanted[1]), int(wanted[2])) if wanted else (0, size - 1)
        self.send_response(206 if wanted else 200)
        self.send_header("ETag", '"etag"')
        self.send_header("Content-Length", str(end + 1 - begin))
        if wanted:
            self.send_header("Content-Range", f"bytes {begin}-{end}/{size}")
        self.end_headers()
        if self.command == "GET":
            with open(self.folder / key, "rb") as file:
                self.wfile.flush()
                while begin <= end:
                    begin += os.sendfile(self.connection.fileno(), file.fileno(), begin, end + 1 - begin)

    def list_objects(self, prefix):
        entries = "".join(
            f"<Contents><Key>{xml.sax.saxutils.escape(str(path.relative_to(self.folder)))}</Key><Size>{path.stat().st_size}</Size><ETag>etag</ETag></Contents>"
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and str(path.relative_to(self.folder)).startswith(prefix)
        )
        body = f"<ListBucketResult>{entries}<IsTruncated>false</IsTruncated></ListBucketResult>".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def children(pid):
    """All processes below it."""
    found = []
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
        if parent == pid:
            found += [int(folder.name), *children(int(folder.name))]
    return found


class Watch:
    """Of each process of the program, the highest resident memory and the bytes that it caused to be written to disks, as far as /proc tells."""

    def __init__(self, process):
        self.peak_bytes, self.written_bytes = {}, {}
        while process.poll() is None:
            for pid in children(process.pid) + [process.pid]:
                self.read(pathlib.Path(f"/proc/{pid}"), pid)
            time.sleep(0.02)

    def read(self, folder, pid):
        try:
            if os.path.basename(os.readlink(folder / "exe")) != os.path.basename(BLOOMERY):
                return
            peak = int(re.search(r"VmHWM:\s+(\d+) kB", (folder / "status").read_text())[1]) << 10
            written = int(re.search(r"^write_bytes: (\d+)", (folder / "io").read_text(), re.M)[1])
        except (OSError, TypeError):  # it has just ended
            return
        self.peak_bytes[pid], self.written_bytes[pid] = peak, written


def files_below(*folders):
    return {path for folder in folders for path in pathlib.Path(folder).rglob("*")}


def main():
    # mpirun keeps some small files of its own session where temporary files go.
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryDirectory(dir="/dev/shm") as memory:
        folder = pathlib.Path(name)
        shards = folder / "store/shards"
        subprocess.run([BLOOMERY, "shard", "--shape", SHAPE, "--dtype", "int8", "--tp", str(RANKS), "--output", str(shards)], check=True, capture_output=True)
        sizes = {path.name: path.stat().st_size for path in shards.glob("*.safetensors")}
        largest = max(sizes.values()) + sizes["every-rank.safetensors"]
        Store.folder = folder / "store"
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Store)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        home = folder / "home"
        (home / "cwd").mkdir(parents=True)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        environment |= {"AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{server.server_port}", "HOME": str(home), "TMPDIR": memory}
        before = files_below(home)
        command = [BLOOMERY, "bench", "s3://bucket/shards", "--load-format", "s3-stream", "--no-sign-request", "--tp", str(RANKS), "--prompt-tokens", "8", "--max-new-tokens", "4", "--format", "json"]
        start = time.monotonic()
        process = subprocess.Popen(command, env=environment, cwd=home / "cwd", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        watch = Watch(process)
        out, err = process.communicate()
        assert process.returncode == 0 and json.loads(out), (out, err)
        ranks = {pid: peak for pid, peak in watch.peak_bytes.items() if peak > largest / 2}
        assert len(ranks) == RANKS, watch.peak_bytes
        for peak in ranks.values():
            print(f"a rank: {peak / 1e6:.0f} MB at its peak (VmHWM: all that is resident), its shards {largest / 1e6:.0f} MB, beside them {(peak - largest) / (1 << 20):.0f} MiB")
        assert max(ranks.values()) <= largest + ALLOWED_BYTES, "more than a rank's shards and 256 MiB"
        assert not any(watch.written_bytes.values()), watch.written_bytes
        assert files_below(home) == before, files_below(home) - before
        print(f"{sum(sizes.values()) / 1e9:.2f} GB into {RANKS} ranks in {time.monotonic() - start:.1f} s, sharing the cores with the server; write_bytes of every process: 0")


main()
