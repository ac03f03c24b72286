"""Input: what a handler is called with. One request, a batch of them, or, when the model starts, neither: an empty one that carries the options."""

import io
import json

from . import ndlist
from .pair_list import PairList


class Input:
    def __init__(self, properties=None, content=None):
        self.function_name = None
        self.properties = dict(properties or {})
        self.content = content if content is not None else PairList()
        self._members = None

    @classmethod
    def of_batch(cls, members):
        """Several requests as one: the properties of the first and batch_size, and everybody's content under batch_<i>.<key>."""
        batch = cls(members[0].properties)
        batch.properties["batch_size"] = str(len(members))
        for i, member in enumerate(members):
            for key, value in member.content:
                batch.content.add(f"batch_{i}.{'data' if key is None else key}", value)
        batch._members = list(members)
        return batch

    def is_batch(self):
        return self._members is not None

    def get_batch_size(self):
        return len(self._members) if self.is_batch() else 1

    def get_batches(self):
        """The single requests; of one that is not a batch, itself."""
        return list(self._members) if self.is_batch() else [self]

    def get_function_name(self):
        return self.function_name

    def get_properties(self):
        return self.properties

    def get_property(self, key):
        """Whatever the case of its letters, as HTTP headers are; None where there is none."""
        if key in self.properties:
            return self.properties[key]
        return next((value for name, value in self.properties.items() if name.lower() == key.lower()), None)

    def get_content(self):
        return self.content

    def is_empty(self):
        return self.content.is_empty()

    def contains_key(self, key):
        return key in self.content.keys

    def get_as_bytes(self, key=None):
        """The piece of that key; without one, the piece called "data", else the first; None of an empty input."""
        if self.content.is_empty():
            return None
        if key:
            if not self.contains_key(key):
                raise KeyError(f"the request has no content {key!r}; it has {', '.join(map(repr, self.content.keys))}")
            return self.content.get(key)
        return self.content.get("data") if self.contains_key("data") else self.content.value_at(0)

    def get_as_string(self, key=None):
        return self._needed(key).decode("utf-8")

    def get_as_json(self, key=None):
        return json.loads(self.get_as_string(key))

    def get_as_numpy(self, key=None):
        """A list of arrays (tensor/ndlist)."""
        return ndlist.decode(self._needed(key))

    def get_as_npz(self, key=None):
        """A list of arrays (numpy's .npz)."""
        import numpy

        with numpy.load(io.BytesIO(self._needed(key))) as npz:
            return [npz[name] for name in npz.files]

    def get_as_image(self, key=None):
        from PIL import Image

        return Image.open(io.BytesIO(self._needed(key)))

    def get_as_csv(self, key=None):
        import csv

        return list(csv.DictReader(io.StringIO(self.get_as_string(key))))

    def get_data(self, key=None):
        """The content as its content type says: an array list, parsed JSON, a text, an image, or bytes."""
        content_type = (self.get_property("content-type") or "").lower()
        for prefix, read in (
            ("tensor/ndlist", self.get_as_numpy),
            ("tensor/npz", self.get_as_npz),
            ("application/json", self.get_as_json),
            ("text/", self.get_as_string),
            ("image/", self.get_as_image),
        ):
            if content_type.startswith(prefix):
                return read(key)
        return self.get_as_bytes(key)

    def __str__(self):
        pieces = ", ".join(f"{key}: {len(value)} bytes" for key, value in self.content)
        return f"Input(properties={self.properties}, content={{{pieces}}})"

    def _needed(self, key):
        data = self.get_as_bytes(key)
        if data is None:
            raise ValueError("the request has no content")
        return bytes(data)
