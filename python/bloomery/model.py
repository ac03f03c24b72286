"""A loaded model: text, tokens and logits from it."""

from __future__ import annotations

import atexit
import itertools
import os
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypedDict, cast, overload

from . import _native
from ._native import ModelInfo, TokenLogprob
from .errors import InvalidArgument, Unsupported
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    import numpy
    import numpy.typing
    from typing_extensions import Unpack


class GenerationOptions(TypedDict, total=False):
    """Keyword arguments of `Model.generate` and `Model.stream`; names and meanings are those of transformers' GenerationConfig.

    As there, temperature, top_k, top_p and typical_p do something with do_sample=True only, and beams are not sampled.
    """

    max_new_tokens: int | None
    """Tokens to generate at most; 128 where neither this nor max_length is given, or what the context has room for."""
    max_length: int | None
    """Prompt and answer together at most; used where max_new_tokens is not given."""
    min_new_tokens: int | None
    min_length: int | None
    do_sample: bool | None
    temperature: float | None
    top_k: int | None
    """Draw from the k most likely tokens; 0: from all, which is the default (transformers': 50)."""
    top_p: float | None
    typical_p: float | None
    repetition_penalty: float | None
    frequency_penalty: float | None
    presence_penalty: float | None
    no_repeat_ngram_size: int | None
    num_beams: int | None
    length_penalty: float | None
    early_stopping: bool | Literal["never"] | None
    num_return_sequences: int | None
    best_of: int | None
    stop: str | Sequence[str] | None
    """Text that ends the answer, and is not part of it."""
    stop_token_ids: Sequence[int] | None
    eos_token_id: int | Sequence[int] | None
    """In place of the model's own end-of-sequence tokens."""
    ignore_eos: bool | None
    seed: int | None
    """The same seed gives the same text, whatever is computed beside it."""
    logprobs: int | None
    """0: log-probabilities of the tokens; k > 0: also the k most likely at each place."""


@dataclass(frozen=True)
class Answer:
    """One answer to a prompt."""

    text: str
    token_ids: list[int]
    """An end-of-sequence token included."""
    finish_reason: str
    """"length", "eos_token" or "stop_sequence"."""
    score: float
    """Beam search: the beam's score; else, with logprobs, the sum of the tokens' log-probabilities."""
    logprobs: list[TokenLogprob]
    """Empty unless asked for."""
    top_logprobs: list[list[TokenLogprob]]


@dataclass(frozen=True)
class Generation:
    """What became of one prompt. `str()` of it is the first answer's text."""

    sequences: list[Answer]
    prompt_token_ids: list[int]
    seed: int
    cached_tokens: int
    """Of the prompt, taken over from earlier requests with the same beginning."""
    first_token_ms: float
    total_ms: float

    @property
    def text(self) -> str:
        """The first answer's text."""
        return self.sequences[0].text

    @property
    def token_ids(self) -> list[int]:
        """The first answer's tokens."""
        return self.sequences[0].token_ids

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Piece:
    """One step of a stream. `str()` of it is its text; the pieces' texts, joined, are the whole answer's."""

    text: str
    """What became certain: whole characters, held back while it may be the beginning of a stop text. May be empty."""
    token: TokenLogprob | None
    """None for the last piece, which has what was held back, and under beam search. Its logprob needs `logprobs=0` or more."""
    top_logprobs: list[TokenLogprob]
    finish_reason: str | None
    """Of the last piece alone."""

    def __str__(self) -> str:
        return self.text


def is_one_prompt(prompts: object) -> bool:
    """Text, or a list of token ids; not a list of either."""
    return isinstance(prompts, str) or (isinstance(prompts, Sequence) and len(prompts) > 0 and isinstance(prompts[0], int))


def native_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Generation options as the engine takes them."""
    native = dict(options)
    if isinstance(native.get("stop"), str):
        native["stop"] = [native["stop"]]
    if "eos_token_id" in native:
        eos = native.pop("eos_token_id")
        native["eos_token_ids"] = [eos] if isinstance(eos, int) else eos
    if native.get("temperature") == 0 or (native.get("num_beams") or 1) > 1 and not native.get("do_sample"):
        native["do_sample"] = False
    if not native.get("do_sample"):
        native.pop("temperature", None)
    return native


class Model:
    """A model in memory, with an engine that computes what is asked of it together. Made by `load`.

    Any thread may call it; other Python threads run while it computes. Of a model on several ranks every process makes
    the same calls, in the same order, and gets the same answers: rank 0's.
    """

    def __init__(self, native: _native.Model) -> None:
        self._native = native
        self._tokenizer = Tokenizer(native.tokenizer) if native.tokenizer is not None else None
        self._number = next(_numbers)
        _open_models.add(self)

    @property
    def info(self) -> ModelInfo:
        """The model's name, type, dtype, sizes and limits."""
        return self._native.info

    @property
    def rank(self) -> int:
        """Which of the ranks this process is; 0 for a model on one."""
        return self._native.rank

    @property
    def load_s(self) -> float:
        """Seconds that loading took."""
        return self._native.load_s

    @property
    def tokenizer(self) -> Tokenizer:
        """Raises Unsupported for a directory without one."""
        if self._tokenizer is None:
            raise Unsupported(f"{self.info.name} has no tokenizer: prompts and answers are token ids")
        return self._tokenizer

    @overload
    def generate(  # type: ignore[overload-overlap]  # a str is a Sequence[str] too; it is taken first
        self, prompts: str, *, add_special_tokens: bool = True, **options: Unpack[GenerationOptions]
    ) -> Generation: ...
    @overload
    def generate(self, prompts: Sequence[int], *, add_special_tokens: bool = True, **options: Unpack[GenerationOptions]) -> Generation: ...
    @overload
    def generate(
        self, prompts: Sequence[str] | Sequence[Sequence[int]], *, add_special_tokens: bool = True, **options: Unpack[GenerationOptions]
    ) -> list[Generation]: ...
    def generate(
        self,
        prompts: str | Sequence[int] | Sequence[str] | Sequence[Sequence[int]],
        *,
        add_special_tokens: bool = True,
        **options: Unpack[GenerationOptions],
    ) -> Generation | list[Generation]:
        """Continues a prompt, or each of a list, computed together; a prompt is text or token ids.

        Fails as a whole where one prompt fails. Ctrl-C ends it at once. On several ranks the seed is rank 0's.
        """
        one = is_one_prompt(prompts)
        all_prompts = cast("list[str | Sequence[int]]", [prompts] if one else list(prompts))
        done = self._run(all_prompts, native_options(options), add_special_tokens)
        return done[0] if one else done

    def stream(self, prompt: str | Sequence[int], *, add_special_tokens: bool = True, **options: Unpack[GenerationOptions]) -> Iterator[Piece]:
        """The answer to one prompt as it comes, token by token. An iterator that is closed early cancels the request.

        On several ranks the call is made when the first piece is asked for, rank 0 alone has the pieces as they come, and
        the others have them when the stream has ended there.
        """
        if (options.get("num_return_sequences") or 1) > 1:
            raise InvalidArgument("a stream is of one sequence: num_return_sequences must be 1")
        return self._stream(prompt, native_options(options), add_special_tokens)

    def logits(self, token_ids: Sequence[int]) -> numpy.typing.NDArray[numpy.float32]:
        """[tokens, vocab]: what the model says after each of the tokens."""
        return self._native.logits([int(token) for token in token_ids])

    def follow(self) -> None:
        """On ranks other than 0: takes part in rank 0's calls until that closes its model, for programs in which only rank 0
        knows what to call. Does nothing on rank 0."""
        self._native.follow()

    def close(self) -> None:
        """Ends the engine and frees the memory; done at exit for models that are still open.

        Several ranks wait for each other; who is at another call then gets Unavailable there.
        """
        _open_models.discard(self)
        self._native.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<bloomery.Model {self.info.name}: {self.info.model_type}, {self.info.parameters:,} parameters, {self.info.dtype}>"

    def _run(self, prompts: list[str | Sequence[int]], options: dict[str, Any], add_special_tokens: bool) -> list[Generation]:
        if not prompts:
            return []
        events = _native.EventQueue()
        collectors = [_Collector() for _ in prompts]
        running = dict(zip(self._native.submit(prompts, options, add_special_tokens, events), collectors))
        try:
            while running:
                request, event = events.next()
                if running[request].take(event):
                    del running[request]
        except BaseException:
            for request in running:
                self._native.cancel(request)
            raise
        return [collector.generation() for collector in collectors]

    def _stream(self, prompt: str | Sequence[int], options: dict[str, Any], add_special_tokens: bool) -> Iterator[Piece]:
        events = _native.EventQueue()
        (request,) = self._native.submit([prompt], options, add_special_tokens, events)
        try:
            while True:
                _, event = events.next()
                if isinstance(event, _native.TokenEvent):
                    yield Piece(event.text, event.token, event.top_logprobs, None)
                elif isinstance(event, _native.SequenceEvent):
                    yield Piece(event.text_tail, None, [], event.finish_reason)
                elif isinstance(event, _native.DoneEvent):
                    return
        finally:
            self._native.cancel(request)  # means nothing to a request that has ended


class _Collector:
    """The events of one request, until its last."""

    def __init__(self) -> None:
        self.sequences: list[_native.SequenceEvent] = []
        self.prompt: _native.PromptEvent | None = None
        self.done: _native.DoneEvent | None = None

    def take(self, event: object) -> bool:
        """True: that was the last."""
        if isinstance(event, _native.PromptEvent):
            self.prompt = event
        elif isinstance(event, _native.SequenceEvent):
            self.sequences.append(event)
        elif isinstance(event, _native.DoneEvent):
            self.done = event
        return self.done is not None

    def generation(self) -> Generation:
        assert self.prompt is not None and self.done is not None
        sequences = [
            Answer(e.text, e.token_ids, e.finish_reason, e.score, e.logprobs, e.top_logprobs)
            for e in sorted(self.sequences, key=lambda e: e.sequence)
        ]
        return Generation(
            sequences, self.prompt.token_ids, self.prompt.seed, self.done.cached_tokens, self.done.first_token_ms, self.done.total_ms
        )


def load(
    model: str | os.PathLike[str],
    dtype: object = "auto",
    tensor_parallel_degree: int = 1,
    kv_dtype: object = "auto",
    threads: int = 0,
    max_batch_size: int = 64,
    *,
    policy: str | os.PathLike[str] | None = None,
    kv_cache_bytes: int = 0,
    max_context_tokens: int = 0,
    max_batch_tokens: int = 512,
    prefix_cache: bool = True,
    speculative_tokens: int = 7,
) -> Model:
    """Loads a model's directory: Hugging Face's layout, `bloomery shard`'s or DeepSpeed's.

    dtype: of the weights in memory: "auto" (the checkpoint's own), f32, bf16, f16, int8 or int4, by these or torch's
    names, or a torch.dtype. kv_dtype: of keys and values, the same but int4.
    tensor_parallel_degree: ranks that share the model. Each is a process of its own that calls this, started by
    `mpirun -n DEGREE --bind-to none python …`, or by `bloomery serve` for a model.py.
    threads: of this process; 0: every core that it may use.
    max_batch_size: sequences computed together.
    policy: JSON description of the architecture (docs/reference/architectures.md).
    kv_cache_bytes: memory for keys and values; 0: room for all sequences within half of the free memory.
    max_context_tokens: prompt and answer at most; 0: what the model was made for.
    """
    options = {
        "dtype": dtype_name(dtype),
        "kv_dtype": dtype_name(kv_dtype),
        "threads": threads,
        "tensor_parallel_degree": tensor_parallel_degree,
        "policy": os.fspath(policy) if policy is not None else "",
        "kv_cache_bytes": kv_cache_bytes,
        "max_context_tokens": max_context_tokens,
        "max_batch_size": max_batch_size,
        "max_batch_tokens": max_batch_tokens,
        "prefix_cache": prefix_cache,
        "speculative_tokens": speculative_tokens,
    }
    return Model(_native.Model(model, options))


def dtype_name(dtype: object) -> str:
    """Of "f16", "float16", torch.float16, numpy.float16 … the name that the engine knows; None: "auto"."""
    if dtype is None:
        return "auto"
    if isinstance(dtype, type):
        return dtype.__name__
    return str(dtype).replace("torch.", "")


_open_models: weakref.WeakSet[Model] = weakref.WeakSet()
_numbers = itertools.count()


@atexit.register
def _close_all() -> None:
    # In one order on all ranks, which wait for each other.
    for model in sorted(_open_models, key=lambda model: model._number):
        model.close()
