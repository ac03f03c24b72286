"""The bytes between the gateway and a worker; table in docs/formats/handler-protocol.md. All numbers are little-endian."""

import struct

HEADER = struct.Struct("<IHBB")
MAGIC, VERSION = 0x4842, 1
LOAD, PREDICT, CANCEL = 1, 2, 3  # from the gateway
HELLO, READY, LOAD_FAILED, HEAD, DATA, DONE, CALLED = 11, 12, 13, 14, 15, 16, 17  # to it
MAX_DATA_BYTES = 1 << 20  # of one data frame: a long answer is several

_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")


class FrameError(Exception):
    """The other side does not speak this protocol."""


def pack_bytes(data):
    return _U32.pack(len(data)) + data


def pack_text(text):
    # Whatever a handler made of a text, lone surrogates included, must not break the protocol.
    return pack_bytes(str(text).encode("utf-8", "replace"))


def pack_map(pairs):
    return _U32.pack(len(pairs)) + b"".join(pack_text(key) + pack_text(value) for key, value in pairs.items())


def frame(kind, *parts):
    payload = b"".join(parts)
    return HEADER.pack(len(payload), MAGIC, VERSION, kind) + payload


def u64(number):
    return _U64.pack(number)


def u32(number):
    return _U32.pack(number)


class Payload:
    """Reads the fields of one frame in order."""

    def __init__(self, data):
        self._data, self._used = memoryview(data), 0

    def u32(self):
        return self._unpack(_U32)

    def u64(self):
        return self._unpack(_U64)

    def bytes(self):
        count = self.u32()
        if count > len(self._data) - self._used:
            raise FrameError("a field is longer than its frame")
        taken = bytes(self._data[self._used : self._used + count])
        self._used += count
        return taken

    def text(self):
        return self.bytes().decode("utf-8", "replace")

    def pairs(self):
        """Of texts."""
        return {self.text(): self.text() for _ in range(self.u32())}

    def _unpack(self, layout):
        if layout.size > len(self._data) - self._used:
            raise FrameError("a frame ends inside a number")
        (number,) = layout.unpack_from(self._data, self._used)
        self._used += layout.size
        return number


def read_frame(stream):
    """Kind and payload of the next frame of a buffered binary stream; None at its end."""
    header = stream.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    length, magic, version, kind = HEADER.unpack(header)
    if (magic, version) != (MAGIC, VERSION):
        raise FrameError("the gateway speaks another protocol")
    payload = stream.read(length)
    return (kind, Payload(payload)) if len(payload) == length else None
