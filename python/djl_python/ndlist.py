"""Lists of numpy arrays as DJL writes them (content type tensor/ndlist), version 3, big-endian throughout:

    i32 count, then for each array: text "NDAR", i32 3, u8 named [, text name], text layout of sparse arrays ("default"), text type in capitals,
    i32 dimensions, i64 each, i32 letters, u16 each ("?" for a dimension without a name), u8 order of the data's bytes ('<' or '>'), i32 bytes, data

where a text is i16 bytes and UTF-8. numpy is imported when it is needed.
"""

import io
import struct

MAGIC = "NDAR"
VERSION = 3
_TYPE_NAMES = {"bool": "BOOLEAN"}  # where DJL's name is not numpy's in capitals
_NUMPY_NAMES = {name: numpy_name for numpy_name, name in _TYPE_NAMES.items()}


def encode(arrays):
    import numpy

    if isinstance(arrays, numpy.ndarray) or numpy.isscalar(arrays):
        arrays = [arrays]
    parts = [struct.pack(">i", len(arrays))]
    for array in map(numpy.asarray, arrays):
        little = numpy.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(array.shape)
        data = little.tobytes()
        name = str(array.dtype.newbyteorder("="))
        parts += [_text(MAGIC), struct.pack(">iB", VERSION, 0), _text("default"), _text(_TYPE_NAMES.get(name, name.upper()))]
        parts += [struct.pack(">i", array.ndim), struct.pack(f">{array.ndim}q", *array.shape)]
        parts += [struct.pack(">i", array.ndim), struct.pack(">H", ord("?")) * array.ndim]
        parts += [b"<", struct.pack(">i", len(data)), data]
    return b"".join(parts)


def decode(data):
    """Takes .npz too, which clients send under the same content type."""
    import numpy

    data = bytes(data)
    if data[:2] == b"PK":
        with numpy.load(io.BytesIO(data)) as npz:
            return [npz[name] for name in npz.files]
    reader = _Reader(data)
    return [_array(reader, numpy) for _ in range(reader.take(">i"))]


def _array(reader, numpy):
    magic, version = reader.text(), reader.take(">i")
    if (magic, version) != (MAGIC, VERSION):
        raise ValueError(f"an array of an ndlist begins with {magic!r}, version {version}; expected {MAGIC!r}, version {VERSION}")
    if reader.take(">B"):
        reader.text()
    reader.text()
    name = reader.text()
    shape = [reader.take(">q") for _ in range(reader.take(">i"))]
    for _ in range(reader.take(">i")):
        reader.take(">H")
    order = chr(reader.take(">B"))
    kind = numpy.dtype(_NUMPY_NAMES.get(name, name.lower())).newbyteorder("<" if order == "<" else ">")
    return numpy.frombuffer(reader.bytes(reader.take(">i")), kind).reshape(shape)


def _text(text):
    encoded = text.encode()
    return struct.pack(">h", len(encoded)) + encoded


class _Reader:
    def __init__(self, data):
        self._data, self._used = data, 0

    def bytes(self, count):
        end = self._used + count
        if count < 0 or end > len(self._data):
            raise ValueError(f"an ndlist of {len(self._data)} bytes ends inside an array")
        taken, self._used = self._data[self._used : end], end
        return taken

    def take(self, layout):
        return struct.unpack(layout, self.bytes(struct.calcsize(layout)))[0]

    def text(self):
        return self.bytes(self.take(">h")).decode()
