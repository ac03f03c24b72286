#!/usr/bin/env python3
"""Makes a model with outlier features out of an OPT model: the same function in f32, far harder to round to integers.

usage: scripts/demo/make_outliers.py SOURCE OUTPUT [--factor 64]

Large models have a few features that are tens of times larger than the rest (Dettmers et al. 2022). This puts such
features into a small model that has none: in every layer, some channels of both norms' gain and bias are multiplied by
the factor and the columns of the linear layers behind them divided by it; and some rows of fc1 (and of its bias) are
multiplied and the columns of fc2 divided, which ReLU lets through. The factor is a power of two and what is touched is
stored in f32, so that nothing is rounded. Standard library only.
"""

import argparse
import array
import json
import pathlib
import random
import shutil
import struct


def read_safetensors(path):
    """name → (dtype, shape, bytes)"""
    data = path.read_bytes()
    (header_bytes,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + header_bytes])
    header.pop("__metadata__", None)
    begin = 8 + header_bytes
    return {
        name: (entry["dtype"], entry["shape"], data[begin + entry["data_offsets"][0] : begin + entry["data_offsets"][1]])
        for name, entry in header.items()
    }


def write_safetensors(path, tensors):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, _, data in tensors.values():
            file.write(data)


class Model:
    def __init__(self, folder):
        self.tensors = read_safetensors(folder / "model.safetensors")
        self.prefix = next(name for name in self.tensors if name.endswith("layers.0.fc1.weight")).removesuffix("layers.0.fc1.weight")

    def floats(self, name):
        dtype, shape, data = self.tensors[self.prefix + name]
        count = len(data) // (2 if dtype == "F16" else 4)
        return shape, array.array("f", struct.unpack(f"<{count}{'e' if dtype == 'F16' else 'f'}", data))

    def scale(self, name, channels, factor, axis):
        """Multiplies rows (axis 0) or columns (axis 1) of a tensor; a vector has rows only."""
        shape, values = self.floats(name)
        columns = shape[1] if len(shape) == 2 else 1
        for channel in channels:
            where = range(channel, len(values), columns) if axis == 1 else range(channel * columns, (channel + 1) * columns)
            for i in where:
                values[i] *= factor
        self.tensors[self.prefix + name] = ("F32", shape, values.tobytes())


def add_outliers(model, layers, hidden, ffn, factor):
    draw = random.Random(1)
    for layer in range(layers):
        stem = f"layers.{layer}."
        for norm, linears in (("self_attn_layer_norm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")), ("final_layer_norm", ("fc1",))):
            channels = draw.sample(range(hidden), max(1, hidden // 40))
            model.scale(f"{stem}{norm}.weight", channels, factor, 0)
            model.scale(f"{stem}{norm}.bias", channels, factor, 0)
            for linear in linears:
                model.scale(f"{stem}{linear}.weight", channels, 1 / factor, 1)
        channels = draw.sample(range(ffn), max(1, ffn // 40))
        model.scale(f"{stem}fc1.weight", channels, factor, 0)
        model.scale(f"{stem}fc1.bias", channels, factor, 0)
        model.scale(f"{stem}fc2.weight", channels, 1 / factor, 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=pathlib.Path)
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--factor", type=int, default=64)
    arguments = parser.parse_args()
    if arguments.factor < 1 or arguments.factor & (arguments.factor - 1):
        parser.error("--factor must be a power of two, or the function would change")
    config = json.loads((arguments.source / "config.json").read_text())
    if config["model_type"] != "opt" or config["activation_function"] != "relu":
        parser.error("SOURCE must be an OPT model with ReLU")
    model = Model(arguments.source)
    add_outliers(model, config["num_hidden_layers"], config["hidden_size"], config["ffn_dim"], arguments.factor)
    arguments.output.mkdir(parents=True, exist_ok=True)
    for file in arguments.source.iterdir():
        if file.name not in ("model.safetensors", "config.json"):
            shutil.copy(file, arguments.output)
    (arguments.output / "config.json").write_text(json.dumps({**config, "dtype": "float32"}, indent=2) + "\n")
    write_safetensors(arguments.output / "model.safetensors", model.tensors)


if __name__ == "__main__":
    main()
