#!/usr/bin/env python3
"""transformers' generate() in PyTorch eager mode on a named shape with random weights: the same job as `bloomery bench`, timed the same way.

Prints one JSON object with bench's keys. Batch, prompt length and new tokens are arguments; greedy, end-of-sequence ignored.
"""

import argparse
import json
import statistics
import time

import torch
from transformers import BloomConfig, BloomForCausalLM, OPTConfig, OPTForCausalLM
from transformers.modeling_utils import no_init_weights

SHAPES = {
    "opt-125m": (768, 12, 12), "opt-1.3b": (2048, 24, 32), "opt-2.7b": (2560, 32, 32),
    "bloom-560m": (1024, 24, 16), "bloom-1b1": (1536, 24, 16), "bloom-1b7": (2048, 24, 16),
}  # fmt: skip


def make_model(shape, dtype):
    hidden, layers, heads = SHAPES[shape]
    torch.set_default_dtype(dtype)
    with no_init_weights():
        if shape.startswith("opt"):
            model = OPTForCausalLM(OPTConfig(hidden_size=hidden, word_embed_proj_dim=hidden, ffn_dim=4 * hidden, num_hidden_layers=layers,
                                             num_attention_heads=heads, vocab_size=50272))  # fmt: skip
        else:
            model = BloomForCausalLM(BloomConfig(hidden_size=hidden, n_layer=layers, n_head=heads, vocab_size=250880))
    torch.set_default_dtype(torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-0.035, 0.035)
    model.tie_weights()
    return model.eval()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument("--iterations", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    started = time.monotonic()
    model = make_model(arguments.shape, getattr(torch, arguments.dtype))
    load_s = time.monotonic() - started
    ids = torch.randint(4, model.config.vocab_size, (arguments.batch_size, arguments.prompt_tokens))
    settings = dict(attention_mask=torch.ones_like(ids), do_sample=False, min_new_tokens=arguments.max_new_tokens,
                    max_new_tokens=arguments.max_new_tokens, pad_token_id=1)  # fmt: skip
    totals = []
    with torch.inference_mode():
        model.generate(ids, **{**settings, "min_new_tokens": 2, "max_new_tokens": 2})  # warm-up
        for _ in range(arguments.iterations):
            begin = time.monotonic()
            model.generate(ids, **settings)
            totals.append(1000 * (time.monotonic() - begin))
    p50 = statistics.median(totals)
    print(json.dumps({"model": arguments.shape, "library": f"transformers, torch {torch.__version__} eager", "precision": arguments.dtype,
                      "batch": arguments.batch_size, "threads": arguments.threads, "load_s": load_s, "p50_ms": p50,
                      "tokens_per_s": 1000 * arguments.batch_size * arguments.max_new_tokens / p50}))  # fmt: skip


if __name__ == "__main__":
    main()
