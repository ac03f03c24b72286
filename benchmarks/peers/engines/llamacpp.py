"""llama.cpp through llama-cpp-python's low-level API: one llama_decode() with one token of each sequence a step, as llama-batched-bench does.

Only BLOOM: llama.cpp has no OPT.
"""

import ctypes

from engines.base import Engine

# llama.cpp rounds each sequence's part of the context up to this.
CONTEXT_STEP_TOKENS = 256


class LlamaCpp(Engine):
    name = "llamacpp"
    packages = ("llama-cpp-python", "gguf")
    families = ("bloom",)
    dtypes = ("q8_0", "q4_0", "f16")

    def versions(self):
        import llama_cpp

        return {"llama-cpp-python": llama_cpp.__version__}

    def _file(self, shape, dtype):
        return self.files / f"llamacpp-{shape.name}-{dtype}.gguf"

    def prepare(self, shape, dtype):
        from random_gguf import write_bloom

        file = self._file(shape, dtype)
        if not file.exists():
            unfinished = file.with_suffix(".part")
            write_bloom(unfinished, shape, dtype)
            unfinished.rename(file)

    def load(self, shape, dtype):
        import llama_cpp

        from random_gguf import step_bytes

        self.api = llama_cpp
        self.api.llama_backend_init()
        self.shape, self.context, self.reserved = shape, None, None
        self.weight_bytes_per_step = step_bytes(shape, dtype)
        parameters = self.api.llama_model_default_params()
        self.model = self.api.llama_model_load_from_file(str(self._file(shape, dtype)).encode(), parameters)
        if not self.model:
            raise RuntimeError("llama.cpp could not load the model: the worker's log says why")
        self.notes = {"system_info": self.api.llama_print_system_info().decode().strip()}

    def reserve(self, batch, tokens):
        if self.reserved == (batch, tokens):
            return
        if self.context:
            self.api.llama_batch_free(self.batch)
            self.api.llama_free(self.context)
        parameters = self.api.llama_context_default_params()
        parameters.n_ctx = batch * -(-tokens // CONTEXT_STEP_TOKENS) * CONTEXT_STEP_TOKENS
        parameters.n_seq_max = batch
        parameters.n_batch = max(parameters.n_batch, batch * tokens)  # all prompts in one call, which cuts them into n_ubatch tokens
        parameters.n_threads = parameters.n_threads_batch = self.threads
        self.context = self.api.llama_init_from_model(self.model, parameters)
        if not self.context:
            raise RuntimeError("llama.cpp could not make a context: the worker's log says why")
        self.batch = self.api.llama_batch_init(batch * tokens, 0, 1)
        self.reserved = (batch, tokens)

    def run(self, prompts, new):
        self.api.llama_memory_clear(self.api.llama_get_memory(self.context), False)
        length = len(prompts[0])
        rows = self._decode([(token, at, row, at == length - 1) for row, prompt in enumerate(prompts) for at, token in enumerate(prompt)])
        tokens = [(row, self._argmax(i)) for row, i in rows]
        for position in range(length, length + new - 1):
            rows = self._decode([(token, position, row, True) for row, token in tokens])
            tokens = [(row, self._argmax(i)) for row, i in rows]

    def _decode(self, tokens):
        """tokens: (id, position, sequence, whether its logits are wanted). Returns (sequence, index of its logits) of the wanted ones."""
        batch = self.batch
        batch.n_tokens = len(tokens)
        for i, (token, position, row, wanted) in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, position, 1, wanted
            batch.seq_id[i][0] = row
        status = self.api.llama_decode(self.context, batch)
        if status != 0:
            raise RuntimeError(f"llama_decode returned {status}")
        return [(row, i) for i, (_, _, row, wanted) in enumerate(tokens) if wanted]

    def _argmax(self, i):
        import numpy

        logits = self.api.llama_get_logits_ith(self.context, i)
        return int(numpy.ctypeslib.as_array(ctypes.cast(logits, ctypes.POINTER(ctypes.c_float)), (self.shape.vocab,)).argmax())
