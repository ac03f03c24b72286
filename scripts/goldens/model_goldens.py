#!/usr/bin/env python3
"""Tiny checkpoints of every built-in architecture, and of one that is not, with the results transformers gets from them, in f32.

For each configuration testdata/models/<name>/ holds an ordinary Hugging Face directory (config.json and weights in one of the forms found
in the wild) and beside it
  golden.safetensors  logits.<i> [tokens, vocab] of prompt i; raw.<i> and probs.<i> [vocab] of distribution case i
  golden.json         {"prompts": [[id]], "generate": [{name, prompt, params, sequences, scores}], "distributions": [{history, prompt_tokens, params}]}
Every generation is computed in f64 too and dropped where the two differ: a near tie would test rounding, not the program.
"""

import argparse
import copy
import json
import pathlib
import shutil

import numpy as np
import torch
from safetensors.numpy import save_file as save_numpy
from safetensors.torch import save_file as save_torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    LogitsProcessorList,
    MistralConfig,
    OPTConfig,
    Qwen2Config,
)
from transformers.generation.configuration_utils import GenerationConfig
from transformers.generation.logits_process import (
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)
from transformers.modeling_utils import no_init_weights

PROMPT_LENGTHS = (1, 7, 33)


def bloom(**changes):
    return BloomConfig(**{**dict(vocab_size=160, hidden_size=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2, pad_token_id=3,
                                 hidden_dropout=0.0, attention_dropout=0.0), **changes})  # fmt: skip


def opt(**changes):
    return OPTConfig(**{**dict(vocab_size=160, hidden_size=32, word_embed_proj_dim=32, ffn_dim=128, num_hidden_layers=2, num_attention_heads=4,
                               max_position_embeddings=192, dropout=0.0, bos_token_id=2, eos_token_id=2, pad_token_id=1), **changes})  # fmt: skip


IDS = dict(bos_token_id=1, eos_token_id=2, pad_token_id=3)


def gpt2(**changes):
    return GPT2Config(**{**dict(vocab_size=160, n_embd=32, n_layer=2, n_head=4, n_positions=192, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0), **IDS,
                         **changes})  # fmt: skip


def gpt_neox(**changes):
    return GPTNeoXConfig(**{**dict(vocab_size=160, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
                                   max_position_embeddings=192), **IDS, **changes})  # fmt: skip


def gated(kind, **changes):
    """LLaMA and what came after it: RMS norms, rotary positions, heads that share keys and values, a gated FFN."""
    return kind(**{**dict(vocab_size=160, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=88,
                          max_position_embeddings=192, tie_word_embeddings=False), **IDS, **changes})  # fmt: skip


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}

# name → (configuration, how it is stored, which cases)
CONFIGURATIONS = {
    "bloom": (bloom(), dict(prefix="transformer."), "all"),
    "bloom-bin-noprefix": (bloom(), dict(form="bin", prefix=""), "some"),
    "bloom-bin-underscore-shards": (bloom(n_layer=3), dict(form="bin", shards=4, separator="_", prefix=""), "some"),
    "bloom-lm-head": (bloom(), dict(prefix="transformer.", keep_head=True), "some"),
    "bloom-6-heads": (bloom(hidden_size=48, n_head=6), dict(prefix="transformer."), "all"),
    "bloom-5-heads": (bloom(hidden_size=60, n_head=5), dict(prefix="transformer."), "some"),
    "bloom-post-residual": (bloom(apply_residual_connection_post_layernorm=True), dict(prefix="transformer."), "some"),
    "bloom-f16": (bloom(), dict(prefix="transformer.", dtype=torch.float16), "some"),
    "bloom-bf16": (bloom(), dict(prefix="transformer.", dtype=torch.bfloat16), "some"),
    "bloom-legacy-keys": (bloom(), dict(prefix="", legacy_keys=True), "some"),
    "opt": (opt(), dict(prefix="model.decoder."), "all"),
    "opt-bin-decoder-prefix": (opt(), dict(form="bin", prefix="decoder."), "some"),
    "opt-sharded": (opt(num_hidden_layers=3), dict(prefix="model.decoder.", shards=3), "some"),
    "opt-bin-sharded": (opt(num_hidden_layers=3), dict(form="bin", prefix="model.decoder.", shards=3), "some"),
    "opt-post-norm": (opt(do_layer_norm_before=False, word_embed_proj_dim=16), dict(prefix="model.decoder."), "all"),
    "opt-no-final-norm": (opt(_remove_final_layer_norm=True), dict(prefix="model.decoder."), "some"),
    "opt-3-heads": (opt(hidden_size=60, word_embed_proj_dim=60, num_attention_heads=3, ffn_dim=100), dict(prefix="model.decoder."), "some"),
    "opt-bare": (opt(enable_bias=False, layer_norm_elementwise_affine=False), dict(prefix="model.decoder."), "some"),
    "opt-f16": (opt(), dict(prefix="model.decoder.", dtype=torch.float16), "some"),
    "opt-bf16": (opt(), dict(prefix="model.decoder.", dtype=torch.bfloat16), "some"),
    "opt-untied": (opt(tie_word_embeddings=False), dict(prefix="model.decoder.", keep_head=True), "some"),
    "opt-gelu": (opt(activation_function="gelu"), dict(prefix="model.decoder."), "some"),
    "gpt2": (gpt2(), dict(prefix="transformer."), "all"),
    "gpt2-bin-noprefix": (gpt2(n_inner=100, n_head=2), dict(form="bin", prefix=""), "some"),
    "gpt2-f16": (gpt2(), dict(prefix="transformer.", dtype=torch.float16), "some"),
    "gpt-neox": (gpt_neox(), dict(prefix="gpt_neox.", keep_head=True), "all"),
    "gpt-neox-sequential": (gpt_neox(use_parallel_residual=False, rotary_pct=1.0, rotary_emb_base=500, attention_bias=False, tie_word_embeddings=True),
                            dict(prefix="gpt_neox."), "some"),  # fmt: skip
    "llama": (gated(LlamaConfig), dict(prefix="model.", keep_head=True), "all"),
    "llama-bf16": (gated(LlamaConfig, num_key_value_heads=1), dict(prefix="model.", keep_head=True, dtype=torch.bfloat16), "some"),
    "llama-biases": (gated(LlamaConfig, num_key_value_heads=4, head_dim=12, attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
                     dict(prefix="model."), "some"),  # fmt: skip
    "llama-rope-llama3": (gated(LlamaConfig, rope_theta=500.0, rope_scaling=LLAMA3), dict(prefix="model.", keep_head=True), "some"),
    "llama-rope-linear": (gated(LlamaConfig, rope_scaling={"rope_type": "linear", "factor": 4.0}), dict(prefix="model.", keep_head=True), "some"),
    "llama-outliers": (gated(LlamaConfig), dict(prefix="model.", keep_head=True, outliers=True), "some"),
    "mistral": (gated(MistralConfig, sliding_window=100), dict(prefix="model.", keep_head=True), "some"),
    # Not built in: its description lies beside it.
    "qwen2-described": (gated(Qwen2Config), dict(prefix="model.", keep_head=True, description="qwen2.json"), "some"),
}

GREEDY = {"max_new_tokens": 40}
CASES_SOME = {
    "greedy": GREEDY,
    "repetition-penalty": {**GREEDY, "repetition_penalty": 1.3},
    "beams-3": {"max_new_tokens": 24, "num_beams": 3, "num_return_sequences": 3},
}
CASES_ALL = {
    **CASES_SOME,
    "no-repeat-ngram": {**GREEDY, "no_repeat_ngram_size": 2},
    "min-length": {**GREEDY, "min_length": 30},
    "min-new-tokens": {**GREEDY, "min_new_tokens": 20},
    "max-length": {"max_length": 24},
    "notebook": {"min_length": 5, "max_new_tokens": 100, "num_beams": 5, "no_repeat_ngram_size": 2},
    **{
        f"beams-{beams}-{penalty}-{stop}": {
            "max_new_tokens": 20, "num_beams": beams, "num_return_sequences": beams, "length_penalty": penalty, "early_stopping": stop,
        }
        for beams in (2, 3, 5)
        for penalty in (0.5, 1.0, 2.0)
        for stop in (False, True, "never")
    },
    "beams-ngram-min-length": {"max_new_tokens": 30, "num_beams": 4, "num_return_sequences": 2, "no_repeat_ngram_size": 3, "min_length": 25},
}  # fmt: skip

DISTRIBUTIONS = [
    {"temperature": 0.7}, {"temperature": 1.5}, {"top_k": 1}, {"top_k": 5}, {"top_k": 50, "temperature": 0.8}, {"top_p": 0.1}, {"top_p": 0.5},
    {"top_p": 0.9}, {"top_p": 0.95, "temperature": 1.3}, {"typical_p": 0.2}, {"typical_p": 0.9}, {"typical_p": 0.5, "temperature": 0.6},
    {"repetition_penalty": 1.2}, {"repetition_penalty": 0.8, "temperature": 0.9}, {"no_repeat_ngram_size": 2}, {"no_repeat_ngram_size": 1},
    {"min_length": 60}, {"min_new_tokens": 30}, {"top_k": 20, "top_p": 0.8}, {"top_k": 20, "top_p": 0.8, "typical_p": 0.7},
    {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "repetition_penalty": 1.1, "no_repeat_ngram_size": 3},
    {"top_p": 0.999}, {"top_k": 1000}, {"temperature": 0.1, "top_p": 0.7},
]  # fmt: skip


# Names of embeddings and heads.
TABLES = ("embed", "lm_head", "wte", "wpe")
# What begins the names of a family's tensors in transformers, heads aside.
BODY = {"bloom": "transformer.", "opt": "model.decoder.", "gpt2": "transformer.", "gpt_neox": "gpt_neox."}
KEYS = {
    "bloom": ["hidden_size", "n_layer", "n_head", "layer_norm_epsilon", "apply_residual_connection_post_layernorm"],
    "opt": ["hidden_size", "num_hidden_layers", "num_attention_heads", "ffn_dim", "word_embed_proj_dim", "max_position_embeddings",
            "do_layer_norm_before", "activation_function", "enable_bias", "layer_norm_elementwise_affine", "_remove_final_layer_norm"],
    "gpt2": ["n_embd", "n_layer", "n_head", "n_inner", "n_positions", "layer_norm_epsilon", "activation_function", "scale_attn_weights",
             "scale_attn_by_inverse_layer_idx", "add_cross_attention"],
    "gpt_neox": ["hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "max_position_embeddings", "layer_norm_eps",
                 "hidden_act", "rotary_pct", "rotary_emb_base", "rope_scaling", "use_parallel_residual", "attention_bias"],
}  # fmt: skip
GATED_KEYS = ["hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size", "max_position_embeddings",
              "rms_norm_eps", "hidden_act", "rope_theta", "rope_scaling", "attention_bias", "mlp_bias", "sliding_window", "use_sliding_window"]  # fmt: skip


def make_model(config, seed):
    """Random weights, wide enough that argmax is no near tie; norms and biases random too, so that none can be left out unnoticed."""
    generator = torch.Generator().manual_seed(seed)
    with no_init_weights():  # transformers' own initialisation trips over norms without weights
        model = AutoModelForCausalLM.from_config(config).eval()
    model.tie_weights()
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 2:
                inputs = parameter.shape[0 if config.model_type == "gpt2" else 1]  # Conv1D is [in, out]
                parameter.copy_(noise * (0.25 if any(part in name for part in TABLES) else 1.2 / inputs**0.5))
            elif name.endswith("weight"):
                parameter.copy_(1 + 0.3 * noise)
            else:
                parameter.copy_(0.2 * noise)
    return model


def move_size(model, seed):
    """The same function with features of very different sizes: norms' gains and values multiplied by powers of two, and divided in what reads them."""
    generator = torch.Generator().manual_seed(seed)

    def factors(count):
        return 2.0 ** torch.randint(-4, 5, (count,), generator=generator)

    config = model.config
    with torch.no_grad():
        for layer in model.model.layers:
            attention, mlp = layer.self_attn, layer.mlp
            for norm, readers in ((layer.input_layernorm, (attention.q_proj, attention.k_proj, attention.v_proj)),
                                  (layer.post_attention_layernorm, (mlp.gate_proj, mlp.up_proj))):  # fmt: skip
                sizes = factors(config.hidden_size)
                norm.weight *= sizes
                for reader in readers:
                    reader.weight /= sizes
            sizes = factors(attention.v_proj.weight.shape[0])
            attention.v_proj.weight *= sizes[:, None]
            sharers = config.num_attention_heads // config.num_key_value_heads
            attention.o_proj.weight /= sizes.reshape(config.num_key_value_heads, 1, -1).expand(-1, sharers, -1).reshape(-1)


def stored_tensors(model, prefix, keep_head, dtype):
    body = BODY.get(model.config.model_type, "model.")
    tensors = {}
    for name, tensor in model.state_dict().items():
        if name in ("lm_head.weight", "embed_out.weight"):
            if keep_head:
                tensors[name] = tensor.to(dtype).clone()
        else:
            tensors[prefix + name.removeprefix(body)] = tensor.to(dtype).clone().contiguous()
    return dict(sorted(tensors.items()))


def store(directory, model, form="safetensors", shards=1, separator="-", prefix="", keep_head=False, dtype=torch.float32, legacy_keys=False,
          description=None, outliers=False):
    config = json.loads(model.config.to_json_string(use_diff=False))
    keys = ["model_type", "vocab_size", "bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings"]
    keys += KEYS.get(model.config.model_type, GATED_KEYS)
    chosen = {key: config[key] for key in keys if key in config}
    chosen["torch_dtype"] = str(dtype).removeprefix("torch.")
    if legacy_keys:
        chosen["n_embed"] = chosen.pop("hidden_size")
        chosen["num_attention_heads"] = chosen.pop("n_head")
        chosen["num_hidden_layers"] = chosen.pop("n_layer")
    write_json(directory / "config.json", chosen)
    if description is not None:
        shutil.copy(pathlib.Path(__file__).parent / description, directory / "architecture.json")
    tensors = stored_tensors(model, prefix, keep_head, dtype)
    names = list(tensors)
    stem, extension = ("model", ".safetensors") if form == "safetensors" else ("pytorch_model", ".bin")
    weight_map = {}
    for shard in range(shards):
        part = {name: tensors[name] for name in names[shard * len(names) // shards : (shard + 1) * len(names) // shards]}
        file = f"{stem}{extension}" if shards == 1 else f"{stem}{separator}{shard + 1:05d}-of-{shards:05d}{extension}"
        weight_map.update({name: file for name in part})
        if form == "safetensors":
            save_torch(part, directory / file, metadata={"format": "pt"})
        else:
            torch.save(part, directory / file)
    if shards > 1:
        write_json(directory / f"{stem}{extension}.index.json", {"metadata": {}, "weight_map": weight_map})


def write_json(path, value):
    path.write_text(json.dumps(value, sort_keys=True, separators=(",", ":")) + "\n")


def stored_values(model, dtype):
    """The model as a reader of the checkpoint sees it: weights rounded to the stored dtype."""
    if dtype != torch.float32:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(parameter.to(dtype).float())
    return model


@torch.no_grad()
def generate(model, prompt, params):
    """New tokens of each sequence (without padding), and the beams' scores."""
    ids = torch.tensor([prompt])
    eos = params.get("eos_token_id", model.generation_config.eos_token_id)
    config = GenerationConfig(**{"do_sample": False, "pad_token_id": model.config.pad_token_id, "eos_token_id": eos, **params})
    out = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config, return_dict_in_generate=True, output_scores=True)
    stops = eos if isinstance(eos, list) else [eos]
    sequences = []
    for row in out.sequences[:, len(prompt) :].tolist():
        end = next((i + 1 for i, token in enumerate(row) if token in stops), len(row))
        sequences.append(row[:end])
    scores = getattr(out, "sequences_scores", None)
    return sequences, [round(s, 6) for s in scores.tolist()] if scores is not None else []


def generation_cases(model, prompts, which):
    cases, dropped = [], 0
    greedy, _ = generate(model, prompts[1], {**GREEDY, "eos_token_id": [model.config.vocab_size - 1]})
    # Tokens that do occur half way, so that stopping is exercised.
    early = greedy[0][len(greedy[0]) // 2]
    later = greedy[0][-3]
    wanted = [(name, prompts[1 + i % 2], params) for i, (name, params) in enumerate((CASES_ALL if which == "all" else CASES_SOME).items())]
    if which == "all":
        wanted += [("greedy-short-prompt", prompts[0], GREEDY)]
        wanted += [("eos", prompts[1], {**GREEDY, "eos_token_id": early}), ("eos-list", prompts[1], {**GREEDY, "eos_token_id": [later, early]})]
        for name, params in list(CASES_ALL.items()):
            if name.startswith("beams-") or name.startswith("min-"):
                wanted.append((name + "-eos", prompts[1], {**params, "eos_token_id": early}))
    double = copy.deepcopy(model).double()
    for name, prompt, params in wanted:
        sequences, scores = generate(model, prompt, params)
        if generate(double, prompt, params)[0] != sequences:
            dropped += 1
            continue
        case = {"name": name, "prompt": prompt, "params": params, "sequences": sequences}
        if scores:
            case["scores"] = scores
        cases.append(case)
    return cases, dropped


def processors(params, prompt_tokens, eos):
    """In the order of GenerationMixin._get_logits_processor."""
    chain = LogitsProcessorList()
    if "repetition_penalty" in params:
        chain.append(RepetitionPenaltyLogitsProcessor(params["repetition_penalty"]))
    if "no_repeat_ngram_size" in params:
        chain.append(NoRepeatNGramLogitsProcessor(params["no_repeat_ngram_size"]))
    if "min_length" in params:
        chain.append(MinLengthLogitsProcessor(params["min_length"], eos))
    if "min_new_tokens" in params:
        chain.append(MinNewTokensLengthLogitsProcessor(prompt_tokens, params["min_new_tokens"], eos))
    if "temperature" in params:
        chain.append(TemperatureLogitsWarper(params["temperature"]))
    if "top_k" in params:
        chain.append(TopKLogitsWarper(params["top_k"]))
    if "top_p" in params:
        chain.append(TopPLogitsWarper(params["top_p"]))
    if "typical_p" in params:
        chain.append(TypicalLogitsWarper(params["typical_p"]))
    return chain


@torch.no_grad()
def distribution_cases(model, prompts, tensors):
    cases = []
    for i, params in enumerate(DISTRIBUTIONS):
        prompt = prompts[1 + i % 2]
        history = prompt + generate(model, prompt, {"max_new_tokens": 5 + i % 4, "eos_token_id": model.config.vocab_size - 1})[0][0]
        ids = torch.tensor([history])
        raw = model(ids).logits[0, -1]
        scores = processors(params, len(prompt), model.config.eos_token_id)(ids, raw[None].clone())[0]
        tensors[f"raw.{i}"] = raw.numpy()
        tensors[f"probs.{i}"] = torch.softmax(scores, -1).numpy()
        cases.append({"history": history, "prompt_tokens": len(prompt), "params": params})
    return cases


@torch.no_grad()
def make(directory, name, config, storage, which, seed):
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    model = make_model(config, seed)
    if storage.get("outliers"):
        move_size(model, seed)
    store(directory, model, **storage)
    model = stored_values(model, storage.get("dtype", torch.float32))
    rng = np.random.default_rng(seed)
    prompts = [rng.integers(4, config.vocab_size, n).tolist() for n in PROMPT_LENGTHS]
    tensors = {f"logits.{i}": model(torch.tensor([p])).logits[0].numpy() for i, p in enumerate(prompts)}
    cases, dropped = generation_cases(model, prompts, which)
    distributions = distribution_cases(model, prompts, tensors) if name in ("bloom", "opt") else []
    save_numpy(tensors, directory / "golden.safetensors")
    write_json(directory / "golden.json", {"prompts": prompts, "generate": cases, "distributions": distributions})
    return cases, dropped, distributions


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=pathlib.Path, required=True, help="root of the repository")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cases = tokens = dropped = distributions = 0
    for seed, (name, (config, storage, which)) in enumerate(CONFIGURATIONS.items()):
        made, lost, drawn = make(arguments.output / "testdata" / "models" / name, name, config, storage, which, 1000 + seed)
        cases, dropped, distributions = cases + len(made), dropped + lost, distributions + len(drawn)
        tokens += sum(len(sequence) for case in made for sequence in case["sequences"])
        print(f"{name}: {len(made)} generation cases, {lost} near ties dropped, {len(drawn)} distributions", flush=True)
    print(f"models: {len(CONFIGURATIONS)} configurations, {cases} generation cases with {tokens} tokens, {distributions} distributions, "
          f"{dropped} near ties dropped")  # fmt: skip


if __name__ == "__main__":
    main()
