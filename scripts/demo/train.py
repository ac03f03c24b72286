#!/usr/bin/env python3
"""Trains the demo model: a 7 M parameter OPT on Jane Austen's novels, from text to a Hugging Face directory.

Input: a folder with one UTF-8 text file a novel (scripts/train-demo-model exports them from Debian's r-cran-janeaustenr).
Output: an ordinary Hugging Face directory (f16 weights, tokenizer) and the held-out text. Checkpoints as it goes, so that it can be stopped
at any time (Ctrl-C exports the best weights so far).
"""

import argparse
import json
import math
import pathlib
import random
import re
import time

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import OPTConfig, OPTForCausalLM, PreTrainedTokenizerFast

VOCAB = 4096
SPECIALS = ["<s>", "<pad>", "</s>", "<unk>"]  # ids 0 to 3, as in OPT
EOS = 2
WINDOW = 512  # of the held-out perplexity: </s> and 511 tokens of text


def paragraphs(path):
    """The novel's paragraphs, hard-wrapped lines joined; chapter headings stay on lines of their own."""
    blocks = re.split(r"\n\s*\n", path.read_text(encoding="utf-8"))
    joined = (re.sub(r"\s+", " ", block).strip() for block in blocks)
    return [block for block in joined if block]


def split_novels(folder, held_out_share):
    """Training text and held-out text: the last part of each novel is held out."""
    train, held_out = [], []
    for path in sorted(folder.glob("*.txt")):
        blocks = paragraphs(path)
        total = sum(map(len, blocks))
        seen, cut = 0, len(blocks)
        for i, block in enumerate(blocks):
            seen += len(block)
            if seen > total * (1 - held_out_share):
                cut = i
                break
        train.append("\n\n".join(blocks[:cut]))
        held_out.append("\n\n".join(blocks[cut:]))
    return train, held_out


def train_tokenizer(texts):
    """Byte-level BPE in GPT-2's manner with OPT's special tokens; </s> is put before every text, as OPT does."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=SPECIALS, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="</s> $A", pair="</s> $A </s> $B", special_tokens=[("</s>", EOS)]
    )
    return tokenizer


def encode(tokenizer, texts):
    return [np.array(tokenizer.encode(text, add_special_tokens=False).ids, dtype=np.int64) for text in texts]


def held_out_windows(streams):
    """Non-overlapping windows of the novels' held-out tokens, each </s> followed by 511 tokens; a rest shorter than that is dropped."""
    windows = []
    for stream in streams:
        for start in range(0, len(stream) - (WINDOW - 1) + 1, WINDOW - 1):
            windows.append(np.concatenate([[EOS], stream[start : start + WINDOW - 1]]))
    return torch.tensor(np.array(windows))


@torch.no_grad()
def held_out_loss(model, windows):
    model.eval()
    total = 0.0
    for batch in windows.split(8):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(batch).logits
        total += torch.nn.functional.cross_entropy(logits[:, :-1].float().transpose(1, 2), batch[:, 1:], reduction="sum").item()
    model.train()
    return total / (windows.shape[0] * (WINDOW - 1))


def crop(streams, length, generator):
    """A random window: a novel by its length, </s> first so that every position is trained with it."""
    stream = generator.choices(streams, weights=[len(s) for s in streams])[0]
    start = generator.randrange(0, len(stream) - length)
    return np.concatenate([[EOS], stream[start : start + length - 1]])


def learning_rate(step, steps, peak):
    warm_up = max(1, steps // 40)
    if step < warm_up:
        return peak * (step + 1) / warm_up
    return peak * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up))))


def make_model(dropout):
    return OPTForCausalLM(
        OPTConfig(
            vocab_size=VOCAB, hidden_size=256, ffn_dim=1024, num_hidden_layers=7, num_attention_heads=8, max_position_embeddings=1024,
            word_embed_proj_dim=256, dropout=dropout, attention_dropout=0.0, activation_function="relu", do_layer_norm_before=True,
            bos_token_id=EOS, eos_token_id=EOS, pad_token_id=1,
        )
    )  # fmt: skip


def train(model, streams, windows, arguments, best_path):
    generator = random.Random(arguments.seed + arguments.start_step)
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    plain = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}], lr=arguments.lr, betas=(0.9, 0.95)
    )
    best, started = math.inf, time.time()
    # The last tenth of the steps runs at the full 1024 tokens, so that every position is trained.
    for step in range(arguments.start_step, arguments.steps):
        long_phase = step >= arguments.steps * 0.9
        length, batch = (1024, max(1, arguments.batch // 4)) if long_phase else (256, arguments.batch)
        ids = torch.tensor(np.array([crop(streams, length, generator) for _ in range(batch)]))
        # A short window may stand anywhere in the context, so that no position stays untrained.
        offset = 0 if long_phase else generator.choice([0, 0, 256, 512, 768])
        position_ids = torch.arange(offset, offset + length).expand(batch, -1)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, arguments.steps, arguments.lr)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(ids, position_ids=position_ids).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].float().transpose(1, 2), ids[:, 1:])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % arguments.evaluate_every == 0 or step + 1 == arguments.steps:
            held_out = held_out_loss(model, windows)
            if held_out < best:
                best = held_out
                torch.save(model.state_dict(), best_path)
            seconds = time.time() - started
            print(f"step {step + 1}/{arguments.steps} loss {loss.item():.3f} held-out {held_out:.3f} "
                  f"perplexity {math.exp(held_out):.1f} best {math.exp(best):.1f} {seconds:.0f} s", flush=True)  # fmt: skip


def export(model, tokenizer, best_path, output):
    model.load_state_dict(torch.load(best_path, weights_only=True))
    model.config.dropout = 0.0
    model.half().save_pretrained(output, safe_serialization=True)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="</s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>", model_max_length=1024
    )
    wrapped.save_pretrained(output)
    tokenizer.model.save(str(output))  # vocab.json and merges.txt, the form most OPT repositories have


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--novels", type=pathlib.Path, required=True, help="folder with one .txt a novel")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="folder for model/ and heldout.txt")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--resume", type=pathlib.Path, help="weights to go on from (best.pt of an earlier run), with --start-step")
    parser.add_argument("--start-step", type=int, default=0, help="where in the schedule of --steps to go on")
    parser.add_argument("--batch", type=int, default=16, help="windows of 256 tokens in a step")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--held-out-share", type=float, default=0.04)
    parser.add_argument("--evaluate-every", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    arguments.output.mkdir(parents=True, exist_ok=True)
    texts, held_out_texts = split_novels(arguments.novels, arguments.held_out_share)
    tokenizer = train_tokenizer(texts)
    streams, held_out = encode(tokenizer, texts), encode(tokenizer, held_out_texts)
    windows = held_out_windows(held_out)
    (arguments.output / "heldout.json").write_text(json.dumps(held_out_texts, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
    model = make_model(arguments.dropout)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, {sum(map(len, streams))} training tokens, "
          f"{windows.numel()} held-out tokens", flush=True)  # fmt: skip
    if arguments.resume:
        model.load_state_dict(torch.load(arguments.resume, weights_only=True))
    best_path = arguments.output / "best.pt"
    try:
        train(model, streams, windows, arguments, best_path)
    except KeyboardInterrupt:
        print("stopped; exporting the best so far", flush=True)
    export(model, tokenizer, best_path, arguments.output / "model")
    best_path.unlink()


if __name__ == "__main__":
    main()
