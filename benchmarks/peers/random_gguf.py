"""Writes a BLOOM model with random weights as a GGUF file that llama.cpp loads: its tensors, and no vocabulary but its size.

Types per tensor are those that llama-quantize picks for a BLOOM file of that name: every matrix in the type itself, but the tied
embedding, which is the head too, in Q6_K when the file is Q4_0. Biases and norms are f32.
"""

import gguf
import numpy

from gguf import GGMLQuantizationType as Type

FILE_TYPES = {"f16": gguf.LlamaFileType.MOSTLY_F16, "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0, "q4_0": gguf.LlamaFileType.MOSTLY_Q4_0}
MATRIX_TYPES = {"f16": Type.F16, "q8_0": Type.Q8_0, "q4_0": Type.Q4_0}
EMBEDDING_TYPES = {**MATRIX_TYPES, "q4_0": Type.Q6_K}

# Near the deviation of trained weights of this family.
WEIGHT_RANGE = 0.035
CONTEXT_TOKENS = 2048
# Tiled over larger tensors: drawing every byte would take minutes.
NOISE_BYTES = 1 << 26


def tensors(shape, dtype):
    """[(name, [rows, columns] or [columns], type)] in the order of the file."""
    hidden, matrix, f32 = shape.hidden, MATRIX_TYPES[dtype], Type.F32

    def norm(name):
        return [(f"{name}.weight", [hidden], f32), (f"{name}.bias", [hidden], f32)]

    def linear(name, rows, columns):
        return [(f"{name}.weight", [rows, columns], matrix), (f"{name}.bias", [rows], f32)]

    result = [("token_embd.weight", [shape.vocab, hidden], EMBEDDING_TYPES[dtype]), *norm("token_embd_norm")]
    for i in range(shape.layers):
        block = f"blk.{i}"
        result += [*norm(f"{block}.attn_norm"), *linear(f"{block}.attn_qkv", 3 * hidden, hidden),
                   *linear(f"{block}.attn_output", hidden, hidden), *norm(f"{block}.ffn_norm"),
                   *linear(f"{block}.ffn_up", 4 * hidden, hidden), *linear(f"{block}.ffn_down", hidden, 4 * hidden)]  # fmt: skip
    return result + norm("output_norm")


def stored_bytes(dims, dtype):
    per_block, block_bytes = gguf.GGML_QUANT_SIZES[dtype]
    return int(numpy.prod(dims)) // per_block * block_bytes


def step_bytes(shape, dtype):
    """Bytes of the matrices that one decode step reads."""
    return sum(stored_bytes(dims, kind) for _, dims, kind in tensors(shape, dtype) if len(dims) == 2)


def random_blocks(source, count, dtype):
    """count blocks of that type, uint8 [count, block bytes]: uniform quants, and one scale such that weights stay in WEIGHT_RANGE."""

    def scale(value):
        return numpy.broadcast_to(numpy.array([value], numpy.float16).view(numpy.uint8), (count, 2))

    def quants(width):
        return source.integers(0, 256, (count, width), numpy.uint8)

    if dtype == Type.Q8_0:
        return numpy.hstack([scale(WEIGHT_RANGE / 128), quants(32)])
    if dtype == Type.Q4_0:
        return numpy.hstack([scale(WEIGHT_RANGE / 8), quants(16)])
    assert dtype == Type.Q6_K, dtype  # low bits, high bits, scales of 16 weights in int8, the scale of those
    return numpy.hstack([quants(128), quants(64), source.integers(8, 17, (count, 16), numpy.uint8), scale(WEIGHT_RANGE / 32 / 16)])


def random_tensor(source, dims, dtype):
    if dtype in (Type.F32, Type.F16):
        values = source.uniform(-WEIGHT_RANGE, WEIGHT_RANGE, min(int(numpy.prod(dims)), NOISE_BYTES // 4))
        return numpy.resize(values.astype(numpy.float16 if dtype == Type.F16 else numpy.float32), dims)
    per_block, block_bytes = gguf.GGML_QUANT_SIZES[dtype]
    blocks = random_blocks(source, min(int(numpy.prod(dims)) // per_block, NOISE_BYTES // block_bytes), dtype)
    return numpy.resize(blocks, (dims[0], dims[1] // per_block * block_bytes))


def write_bloom(path, shape, dtype):
    assert shape.family == "bloom"
    writer = gguf.GGUFWriter(path, "bloom")
    writer.add_name(f"{shape.name} with random weights")
    writer.add_context_length(CONTEXT_TOKENS)
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(4 * shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.heads)
    writer.add_layer_norm_eps(1e-5)
    writer.add_file_type(FILE_TYPES[dtype])
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(shape.vocab)
    source = numpy.random.default_rng(1)
    todo = tensors(shape, dtype)
    for name, dims, kind in todo:
        writer.add_tensor_info(name, dims, numpy.dtype(numpy.float32), stored_bytes(dims, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, dims, kind in todo:
        writer.write_tensor_data(random_tensor(source, dims, kind))
    writer.close()
