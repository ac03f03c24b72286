"""CTranslate2's Generator in int8: a random transformers model through its own converter, once."""

import shutil

from engines.base import Engine
from engines.pytorch import random_model


def save_word_tokenizer(shape, folder):
    """A tokenizer whose i-th word is "i": the converter takes the vocabulary from it."""
    import tokenizers
    import transformers

    words = tokenizers.models.WordLevel({str(i): i for i in range(shape.vocab)}, unk_token="3")
    special = {"bos_token": str(shape.config["bos_token_id"]), "eos_token": str(shape.config["eos_token_id"]),
               "pad_token": str(shape.config["pad_token_id"]), "unk_token": "3"}  # fmt: skip
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizers.Tokenizer(words), **special).save_pretrained(folder)


class CTranslate2(Engine):
    name = "ctranslate2"
    packages = ("ctranslate2", "torch", "transformers", "accelerate")
    families = ("opt", "bloom")
    dtypes = ("int8",)

    def versions(self):
        import ctranslate2

        return {"ctranslate2": ctranslate2.__version__}

    def _folder(self, shape, dtype):
        return self.files / f"ctranslate2-{shape.name}-{dtype}"

    def prepare(self, shape, dtype):
        from ctranslate2.converters import TransformersConverter

        folder = self._folder(shape, dtype)
        if folder.exists():
            return
        source, unfinished = folder.with_suffix(".source"), folder.with_suffix(".part")
        for leftover in (source, unfinished):
            shutil.rmtree(leftover, ignore_errors=True)
        random_model(shape, "f16").save_pretrained(source)
        save_word_tokenizer(shape, source)
        TransformersConverter(str(source), low_cpu_mem_usage=True).convert(str(unfinished), quantization=dtype)
        shutil.rmtree(source)
        unfinished.rename(folder)

    def load(self, shape, dtype):
        import ctranslate2

        self.shape = shape
        self.generator = ctranslate2.Generator(str(self._folder(shape, dtype)), device="cpu", compute_type=dtype, inter_threads=1,
                                               intra_threads=self.threads)  # fmt: skip
        self.notes = {"compute_type": self.generator.compute_type}
        # A byte a weight, and a scale in f32 for each output column, which is below a thousandth.
        self.weight_bytes_per_step = shape.step_weights

    def run(self, prompts, new):
        answers = self.generator.generate_batch([[str(token) for token in prompt] for prompt in prompts], max_length=new, min_length=new,
                                                beam_size=1, include_prompt_in_result=False)  # fmt: skip
        lengths = {len(answer.sequences_ids[0]) for answer in answers}
        assert lengths == {new}, f"expected {new} tokens for each, got {sorted(lengths)}"
