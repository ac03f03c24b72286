#!/usr/bin/env python3
"""What transformers makes of the demo model: greedy and beam continuations, in f32, and its held-out perplexity. Writes demo/golden.json."""

import argparse
import json
import math
import pathlib

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.generation.configuration_utils import GenerationConfig

PROMPTS = [
    "It is a truth universally acknowledged, that",
    "Emma was not",
    "The house was",
    "Mr. Darcy",
    "She had never been",
    "Captain Wentworth came into the room, and",
    "CHAPTER I\n\n",
    "“My dear Fanny,” said",
]
NOTEBOOK = {"min_length": 5, "max_new_tokens": 100, "num_beams": 5, "no_repeat_ngram_size": 2}
WINDOW = 512


@torch.no_grad()
def perplexity(model, tokenizer, texts):
    """Windows of </s> and 511 tokens, never across texts; the rest of a text shorter than that is dropped."""
    total = count = 0
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        for start in range(0, len(ids) - (WINDOW - 1) + 1, WINDOW - 1):
            window = torch.tensor([[model.config.eos_token_id] + ids[start : start + WINDOW - 1]])
            logits = model(window).logits[0, :-1].double()
            total += torch.nn.functional.cross_entropy(logits, window[0, 1:], reduction="sum").item()
            count += WINDOW - 1
    return math.exp(total / count), count


@torch.no_grad()
def generate(model, tokenizer, prompt, params):
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    config = GenerationConfig(do_sample=False, eos_token_id=model.config.eos_token_id, pad_token_id=model.config.pad_token_id, **params)
    out = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)[0].tolist()
    new = out[ids.shape[1] :]
    return {"prompt": prompt, "prompt_ids": ids[0].tolist(), "params": params, "ids": new, "text": tokenizer.decode(new, skip_special_tokens=True)}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=pathlib.Path, required=True, help="root of the repository")
    demo = parser.parse_args().output / "demo"
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(demo / "model", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(demo / "model")
    cases = [generate(model, tokenizer, prompt, {"max_new_tokens": 64}) for prompt in PROMPTS]
    cases += [generate(model, tokenizer, prompt, NOTEBOOK) for prompt in PROMPTS[:4]]
    value, tokens = perplexity(model, tokenizer, json.loads((demo / "heldout.json").read_text(encoding="utf-8")))
    golden = {"cases": cases, "perplexity": round(value, 4), "perplexity_tokens": tokens}
    (demo / "golden.json").write_text(json.dumps(golden, ensure_ascii=False, sort_keys=True, indent=1) + "\n", encoding="utf-8")
    print(f"demo: {len(cases)} continuations with {sum(len(c['ids']) for c in cases)} tokens, held-out perplexity {value:.4f} over {tokens} tokens")


if __name__ == "__main__":
    main()
