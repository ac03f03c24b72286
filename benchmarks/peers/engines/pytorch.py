"""transformers' generate() in PyTorch eager mode, the model made with accelerate's empty weights and filled with noise."""

from engines.base import Engine

DTYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}

# Enough noise that caches do not hold it, tiled over the parameters: drawing every weight would take minutes.
NOISE_VALUES = 1 << 24
# Near the deviation of trained weights of these families.
WEIGHT_RANGE = 0.035


def random_model(shape, dtype):
    """The transformers model of that shape with random weights of that dtype ("f32", "bf16", "f16")."""
    import torch
    import transformers
    from accelerate import init_empty_weights

    config = transformers.AutoConfig.for_model(**{**shape.config, "torch_dtype": DTYPES[dtype]})
    dtype = getattr(torch, DTYPES[dtype])
    with init_empty_weights():
        model = transformers.AutoModelForCausalLM.from_config(config, torch_dtype=dtype)
    assert not list(model.buffers()), "to_empty() would leave buffers without their values"
    model = model.to_empty(device="cpu")
    model.tie_weights()
    generator = torch.Generator().manual_seed(1)
    noise = torch.empty(NOISE_VALUES).uniform_(-WEIGHT_RANGE, WEIGHT_RANGE, generator=generator).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            assert parameter.dtype == dtype
            for piece in parameter.view(-1).split(NOISE_VALUES):
                piece.copy_(noise[: piece.numel()])
    return model.eval()


class TransformersEager(Engine):
    name = "transformers"
    packages = ("torch", "transformers", "accelerate")
    families = ("opt", "bloom")
    dtypes = ("f32", "bf16")

    def versions(self):
        import accelerate
        import torch
        import transformers

        return {"torch": torch.__version__, "transformers": transformers.__version__, "accelerate": accelerate.__version__}

    def load(self, shape, dtype):
        import torch

        torch.set_num_threads(self.threads)
        self.shape = shape
        self.model = random_model(shape, dtype)
        # Random weights may well answer with end-of-sequence: without one, every sequence has its whole length.
        self.model.generation_config.eos_token_id = None
        self.weight_bytes_per_step = shape.step_weights * self.model.dtype.itemsize

    def run(self, prompts, new):
        import torch

        ids = torch.tensor(prompts)
        with torch.inference_mode():
            answer = self.model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=new, pad_token_id=1)
        assert answer.shape == (len(prompts), len(prompts[0]) + new)
