"""The pieces of a request's or an answer's content: values with keys that may be absent or repeated, in order."""


class PairList:
    def __init__(self, keys=None, values=None, pair_list=None, pair_map=None):
        if keys is not None or values is not None:
            keys, values = list(keys or []), list(values or [])
            if len(keys) != len(values):
                raise ValueError(f"{len(keys)} keys for {len(values)} values")
            pair_list = zip(keys, values)
        elif pair_map is not None:
            pair_list = pair_map.items()
        pairs = list(pair_list or [])
        self.keys = [key for key, _ in pairs]
        self.values = [value for _, value in pairs]

    def add(self, key=None, value=None, index=None, pair=None):
        if pair is not None:
            key, value = pair
        where = len(self.keys) if index is None else index
        self.keys.insert(where, key)
        self.values.insert(where, value)

    def add_all(self, other):
        if other is not None:
            self.keys.extend(other.keys)
            self.values.extend(other.values)

    def size(self):
        return len(self.keys)

    def is_empty(self):
        return not self.keys

    def get(self, key):
        """The value of the first piece with that key; None where there is none."""
        return self.values[self.keys.index(key)] if key in self.keys else None

    def key_at(self, index):
        return self.keys[index]

    def value_at(self, index):
        return self.values[index]

    def get_keys(self):
        return self.keys

    def get_values(self):
        return self.values

    def __len__(self):
        return len(self.keys)

    def __iter__(self):
        return iter(zip(self.keys, self.values))
