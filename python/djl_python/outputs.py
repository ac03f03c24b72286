"""Output: what a handler answers with: a status, properties (the answer's headers), and pieces of content or a stream of them."""

import datetime
import io
import json

from . import ndlist
from .pair_list import PairList

TEXT, JSON, BYTES = "text/plain; charset=utf-8", "application/json", "application/octet-stream"
JSON_LINES, NPZ, NDLIST = "application/jsonlines", "tensor/npz", "tensor/ndlist"


def _plain(value):
    """What json does not know: numpy's and torch's numbers and arrays, and times."""
    if isinstance(value, (datetime.datetime, datetime.date)):
        return str(value)
    for method in ("tolist", "item"):
        if hasattr(value, method):
            return getattr(value, method)()
    raise TypeError(f"a {type(value).__name__} cannot be written as JSON")


def encode_json(value):
    return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=2, separators=(",", ":"), default=_plain).encode()


def encode_chunk(value):
    """A piece of a stream: texts and bytes as they are, everything else as a line of JSON."""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    return json.dumps(value, ensure_ascii=False, allow_nan=False, default=_plain).encode() + b"\n"


class Output:
    def __init__(self, code=200, message="OK"):
        self.code = code
        self.message = message
        self.properties = {}
        self.content = PairList()
        self.stream_content = None
        self.output_formatter = None
        self._types = []  # of the pieces of content: what each was added as
        self._finalizers = []

    def set_code(self, code):
        self.code = code
        return self

    def set_message(self, message):
        self.message = message
        return self

    def error(self, error, code=424, message="prediction failure"):
        self.set_code(code).set_message(message).add_property("content-type", JSON)
        return self.add_as_json({"code": code, "message": message, "error": str(error)})

    def add_property(self, key, val):
        self.properties[key] = val
        return self

    def add(self, value, key=None, batch_index=None):
        """Texts and bytes as they are, everything else as JSON; `batch_index` says which request of a batch it answers."""
        if isinstance(value, str):
            return self._add(value.encode(), TEXT, key, batch_index)
        if isinstance(value, (bytes, bytearray, memoryview)):
            return self._add(bytes(value), BYTES, key, batch_index)
        return self.add_as_json(value, key, batch_index)

    def add_as_json(self, val, key=None, batch_index=None):
        return self._add(encode_json(val), JSON, key, batch_index)

    def add_as_numpy(self, np_list, key=None, batch_index=None):
        return self._add(ndlist.encode(np_list), NDLIST, key, batch_index)

    def add_as_npz(self, np_list, key=None, batch_index=None):
        import numpy

        file = io.BytesIO()
        numpy.savez(file, *np_list)
        return self._add(file.getvalue(), NPZ, key, batch_index)

    def add_stream_content(self, stream_content, output_formatter=None):
        """`stream_content`: anything to iterate over, also asynchronously; each item is sent as soon as it is there."""
        self.stream_content = stream_content
        self.output_formatter = output_formatter if callable(output_formatter) else None
        return self

    def finalize(self, function, *args):
        """Calls function(*args) once the answer has been sent."""
        self._finalizers.append((function, args))
        return self

    def execute_finalize(self):
        while self._finalizers:
            function, args = self._finalizers.pop(0)
            function(*args)

    def content_type_at(self, index):
        return self._types[index] if index < len(self._types) else BYTES

    def _add(self, data, content_type, key, batch_index):
        if key is not None:
            key = str(key)
        if batch_index is not None:
            key = f"batch_{batch_index}.{'data' if key is None else key}"
        self.content.add(key, data)
        self._types.append(content_type)
        return self

    def __str__(self):
        pieces = ", ".join(f"{key}: {len(value)} bytes" for key, value in self.content)
        return f"Output(code={self.code}, message={self.message!r}, properties={self.properties}, content={{{pieces}}})"
