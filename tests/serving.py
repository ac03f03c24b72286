"""A `bloomery serve` for the end-to-end tests: started on a free port, waited for, stopped. Standard library only."""

import http.client
import json
import os
import pathlib
import re
import signal
import subprocess
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BLOOMERY = os.environ.get("BLOOMERY", str(ROOT / "build/release/bloomery"))


class Server:
    def __init__(self, *arguments):
        self.process = subprocess.Popen([BLOOMERY, "serve", "--port", "0", *arguments], stderr=subprocess.PIPE, text=True, errors="surrogateescape")
        self.log = []
        self._port = None
        self._listening = threading.Event()
        self.log_ended = threading.Event()  # all of it has been read
        threading.Thread(target=self._read_log, daemon=True).start()
        assert self._listening.wait(30), "the server did not say where it listens:\n" + "".join(self.log)
        self.port = self._port
        self.url = f"http://127.0.0.1:{self.port}"

    def _read_log(self):
        for line in self.process.stderr:
            self.log.append(line)
            found = re.search(r"listening on http://[^:]+:(\d+)", line)
            if found:
                self._port = int(found.group(1))
                self._listening.set()
        self.log_ended.set()

    def wait_ready(self, seconds=60):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.request("GET", "/ping")[0] == 200:
                return self
            time.sleep(0.05)
        raise AssertionError("not ready in time:\n" + "".join(self.log))

    def connect(self, timeout=120):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def request(self, method, path, body=None, headers=None):
        """Status, headers and body of one exchange on a connection of its own."""
        connection = self.connect()
        if isinstance(body, (dict, list)):
            body, headers = json.dumps(body), {"Content-Type": "application/json", **(headers or {})}
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, response.headers, response.read()

    def engine_pid(self):
        """The engine process: the server's only child."""
        children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0]) if children else None

    def json_log(self):
        """The log so far, of a server with --log-format json: each of its lines must be an object."""
        events = [json.loads(line) for line in list(self.log)]
        for event in events:
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event["time"]), event
            assert event["level"] in ("trace", "debug", "info", "warning", "error", "critical") and event["pid"] > 0, event
            assert ("event" in event) or event["message"], event
        return events

    def stop(self, seconds=40):
        """SIGTERM and the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def __enter__(self):
        return self.wait_ready()

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def stream_completion(server, body, on_token=None):
    """The text of a streamed completion, put together from its events; raises on an error event."""
    connection = server.connect()
    connection.request("POST", "/v1/completions", json.dumps({**body, "stream": True}), {"Content-Type": "application/json"})
    response = connection.getresponse()
    assert response.status == 200, (response.status, response.read())
    text, done = "", False
    for line in response:
        if not line.startswith(b"data: "):
            continue
        if line.strip() == b"data: [DONE]":
            done = True
            continue
        event = json.loads(line[6:])
        if "error" in event:
            raise RuntimeError(event["error"]["message"])
        for choice in event["choices"]:
            text += choice["text"]
            if on_token:
                on_token(choice)
    assert done, "the stream ended without [DONE]"
    return text
