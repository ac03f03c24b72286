#!/usr/bin/env python3
"""Tensor-parallel sets as DeepSpeed-Inference saves them, of the tiny models that model_goldens.py makes.

testdata/deepspeed/<name>/ holds the model's config.json and what DeepSpeed wrote: ds_inference_config.json, non-tp.pt, tp_<rank>_<part>.pt.

The code that replaces layers, cuts, quantises and saves is DeepSpeed's own, run on two processes. Its kernels need CUDA, and saving calls none
of them: their module is a stand-in here, and no model is run. Sets that DeepSpeed makes from a set hold [tensor, scale] for every weight; where
the weight is not int8, that scale is one uninitialised number which nobody reads. It is made 1 here, so that the same bytes come out every time.
"""

import argparse
import os
import pathlib
import shutil

os.environ.setdefault("DS_ACCELERATOR", "cpu")

import torch
import torch.multiprocessing

TENSOR_RANKS = 2
PORT = 29611

# name → (model, data type, the set it is made from; None: the model itself)
SETS = {
    "bloom-f32": ("bloom", torch.float32, None),
    "bloom-f16": ("bloom-f16", torch.float16, None),
    "bloom-int8": ("bloom", torch.int8, "bloom-f32"),
    "bloom-f32-lists": ("bloom", torch.float32, "bloom-f32"),
    "opt-f32": ("opt", torch.float32, None),
    "opt-int8": ("opt", torch.int8, "opt-f32"),
}

FUZZ_SEED = ("bloom-int8", "tp_00_05.pt")


class NoKernels:
    """Stands for the module of CUDA kernels: any function can be asked for, none may be called."""

    def __getattr__(self, name):
        def refuse(*_arguments, **_named):
            raise AssertionError(f"DeepSpeed called its kernel {name}")

        return refuse


def prepare_deepspeed():
    import deepspeed
    from deepspeed.model_implementations.transformers import ds_transformer
    from deepspeed.module_inject import replace_module
    from deepspeed.ops.transformer.inference.op_binding import base

    class Builder:
        def load(self):
            return NoKernels()

    quantize = replace_module.GroupQuantizer.quantize

    def repeatable(self, *arguments, **named):
        weight = quantize(self, *arguments, **named)
        if weight.dtype != torch.int8:
            weight.scale.fill_(1)
        return weight

    replace_module.GroupQuantizer.quantize = repeatable

    deepspeed.accelerator.get_accelerator().is_fp16_supported = lambda: True  # nothing is computed
    base.InferenceBuilder = Builder
    ds_transformer.InferenceBuilder = Builder
    return deepspeed


def save_set(rank, model_directory, dtype, source, target):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(TENSOR_RANKS), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(PORT))
    torch.set_num_threads(1)
    deepspeed = prepare_deepspeed()
    deepspeed.init_distributed(dist_backend="gloo", verbose=False)
    from transformers import AutoConfig, AutoModelForCausalLM

    if source is None:
        model = AutoModelForCausalLM.from_pretrained(model_directory, torch_dtype=dtype)
    else:
        with deepspeed.OnDevice(dtype=torch.float16, device="meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model_directory))
    deepspeed.init_inference(
        model.eval(),
        tensor_parallel={"tp_size": TENSOR_RANKS},
        dtype=dtype,
        replace_with_kernel_inject=True,
        checkpoint=None if source is None else str(source / "ds_inference_config.json"),
        save_mp_checkpoint_path=str(target),
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=pathlib.Path, required=True, help="root of the repository")
    arguments = parser.parse_args()
    models = arguments.output / "testdata" / "models"
    sets = arguments.output / "testdata" / "deepspeed"
    (arguments.output / "fuzz" / "corpus" / "torch_fuzzer").mkdir(parents=True, exist_ok=True)
    for name, (model, dtype, source) in SETS.items():
        directory = sets / name
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        torch.multiprocessing.spawn(save_set, (models / model, dtype, sets / source if source else None, directory), nprocs=TENSOR_RANKS)
        shutil.copy(models / model / "config.json", directory)
        if name == FUZZ_SEED[0]:
            shutil.copy(directory / FUZZ_SEED[1], arguments.output / "fuzz" / "corpus" / "torch_fuzzer" / "deepspeed-int8")
        print(f"{name}: {sum(file.stat().st_size for file in directory.iterdir())} bytes", flush=True)


if __name__ == "__main__":
    main()
