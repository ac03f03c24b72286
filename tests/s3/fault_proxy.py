"""A proxy in front of an S3 server that does to its answers what networks and busy services do. Standard library only."""

import http.client
import http.server
import re
import socket
import struct
import threading
import time

BUSY = b'<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>'
EXPIRED = b'<?xml version="1.0"?><Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>'
TRICKLE_BYTES_PER_SECOND = 4096


class FaultProxy:
    """Every request is counted in `requests`. `fault` is called with its number and (method, path) and names what happens to it: None, "busy", "reset", "truncate",
    "corrupt", "hang" (no answer), "stall" (half of one) or "trickle" (4 KiB/s). `bytes_per_second` slows every body down. Requests with the session token
    `expired_token` are answered as S3 does when it has expired."""

    def __init__(self, upstream_port):
        self.requests = []
        self.fault = lambda number, method, path: None
        self.bytes_per_second = None
        self.expired_token = None
        self._lock = threading.Lock()
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one(self):
                with proxy._lock:
                    proxy.requests.append((self.command, self.path))
                    number = len(proxy.requests)
                fault = proxy.fault(number, self.command, self.path)
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                if fault == "busy":
                    return self.answer(503, [("content-type", "application/xml")], b"" if self.command == "HEAD" else BUSY, None)
                if proxy.expired_token is not None and self.headers.get("x-amz-security-token", "") == proxy.expired_token:
                    return self.answer(400, [("content-type", "application/xml")], b"" if self.command == "HEAD" else EXPIRED, None)
                if fault == "hang":
                    return self.wait_for_the_client()
                upstream = http.client.HTTPConnection("127.0.0.1", upstream_port, timeout=60)
                upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():  # Host too: it is signed
                    upstream.putheader(name, value)
                upstream.endheaders(body)
                response = upstream.getresponse()
                headers = [(k, v) for k, v in response.getheaders() if k.lower() not in ("connection", "transfer-encoding", "content-length", "server", "date")]
                length = response.getheader("content-length")
                self.answer(response.status, headers, response.read(), fault, length if self.command == "HEAD" else None)

            def answer(self, status, headers, body, fault, length=None):
                self.send_response(status)
                for name, value in headers:
                    self.send_header(name, value)
                self.send_header("content-length", length or str(len(body)))
                self.end_headers()
                if fault == "corrupt" and body:
                    body = body[: len(body) // 2] + bytes([body[len(body) // 2] ^ 1]) + body[len(body) // 2 + 1 :]
                if fault in ("reset", "truncate", "stall"):
                    body = body[: len(body) // 2]
                speed = TRICKLE_BYTES_PER_SECOND if fault == "trickle" else proxy.bytes_per_second
                step = min(65536, speed // 4) if speed else len(body) or 1
                for at in range(0, len(body), step):
                    self.wfile.write(body[at : at + step])
                    if speed:
                        time.sleep(step / speed)
                if fault == "stall":
                    self.wait_for_the_client()
                if fault in ("reset", "truncate"):
                    self.close_connection = True
                if fault == "reset":
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.connection.close()

            def wait_for_the_client(self):
                """Until it gives up and closes."""
                self.close_connection = True
                while self.connection.recv(65536):
                    pass

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_one

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_):  # clients that are killed
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def count(self, method, pattern):
        return sum(m == method and re.search(pattern, path) is not None for m, path in list(self.requests))

    def forget_dead(self):
        """A client that was killed may have left a request behind; it is read and counted now, before `clear`."""
        time.sleep(0.5)
        self.clear()

    def clear(self):
        self.requests.clear()
        self.fault = lambda number, method, path: None
        self.bytes_per_second = None
        self.expired_token = None
