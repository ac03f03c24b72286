import os
import unittest

from djl_python import PairList
from djl_python.forms import unfold

TYPE = "multipart/form-data; boundary=xYz"


def form(*parts):
    return b"".join(b"--xYz\r\nContent-Disposition: form-data; " + head + b"\r\n\r\n" + value + b"\r\n" for head, value in parts) + b"--xYz--\r\n"


def unfolded(body, content_type=TYPE, **more):
    content = PairList([*more, "data"], [*more.values(), body])
    return list(unfold({"Content-Type": content_type}, content))


class UnfoldTest(unittest.TestCase):
    def test_fields_and_files_are_content_by_name(self):
        body = form((b'name="prompt"', "Grüße".encode()), (b'name="file"; filename="a.bin"\r\nContent-Type: application/octet-stream', b"\x00\xff"), (b'name="empty"', b""))
        self.assertEqual(unfolded(body, model_name=b"m"), [("model_name", b"m"), ("prompt", "Grüße".encode()), ("file", b"\x00\xff"), ("empty", b"")])

    def test_bytes_stay_what_they_are(self):
        for value in (bytes(range(256)) * 3, b"\r\n\r\n", b"a\r\n--xY\r\nb\n\n\r", b"--xYz trailing"[2:], os.urandom(100_000)):
            self.assertEqual(unfolded(form((b'name="a"', value))), [("a", value)])

    def test_what_is_no_form_is_left_alone(self):
        for body, content_type in ((b"{}", "application/json"), (b"a=b", "application/x-www-form-urlencoded"), (b"no parts", TYPE), (b"", TYPE), (form((b'name="a"', b"b")), "multipart/form-data")):
            self.assertEqual(unfolded(body, content_type), [("data", body)])


if __name__ == "__main__":
    unittest.main()
