#!/usr/bin/env python3
"""Seeds of the fuzzers that only other software writes well: small safetensors and torch files, a small tokenizer."""

import argparse
import io
import pathlib

import torch
from safetensors.torch import save
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=pathlib.Path, required=True, help="root of the repository")
    corpus = parser.parse_args().output / "fuzz" / "corpus"
    for name in ("safetensors", "torch", "tokenizer"):
        (corpus / f"{name}_fuzzer").mkdir(parents=True, exist_ok=True)
    tensors = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.float16), "c": torch.ones(1, dtype=torch.bfloat16)}
    (corpus / "safetensors_fuzzer" / "three").write_bytes(save(tensors, metadata={"format": "pt"}))
    (corpus / "safetensors_fuzzer" / "empty").write_bytes(save({}))
    shared = torch.arange(8.0)
    objects = {"plain": tensors, "nested": {"state_dict": tensors, "epoch": 3}, "views": {"x": shared[:4], "y": shared[4:]},
               "parameter": {"p": torch.nn.Parameter(torch.ones(2))}, "transposed": {"t": torch.ones(2, 3).t()}}  # fmt: skip
    for name, value in objects.items():
        buffer = io.BytesIO()
        torch.save(value, buffer)
        (corpus / "torch_fuzzer" / name).write_bytes(buffer.getvalue())
    # The legacy form's first two pickles; torch writes memory addresses into the rest, different in every run.
    (corpus / "torch_fuzzer" / "legacy").write_bytes(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.")
    alphabet = {c: i for i, c in enumerate(["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    for token in ("he", "ll", "hell", "hello"):
        alphabet[token] = len(alphabet)
    merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o")]
    tokenizer = Tokenizer(models.BPE(alphabet, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    (corpus / "tokenizer_fuzzer" / "small").write_bytes(tokenizer.to_str().encode() + b"\0hello </s> he\xff\xf0\x9f world")
    print("fuzz seeds: 2 safetensors, 6 torch files, 1 tokenizer")


if __name__ == "__main__":
    main()
