"""DeepSpeed's `init_inference`, with its argument names, on this engine."""

from __future__ import annotations

import json
import os
import pathlib
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy

from .errors import InvalidArgument, NotFound
from .model import Model, load
from .pipelines import generation_options

# The engine always does what these ask for, or has nothing that they could change.
_SILENT = {"replace_with_kernel_inject", "replace_method", "kernel_inject", "enable_cuda_graph", "mpu"}


class InferenceEngine:
    """What `init_inference` returns. As there, `.module` is the model, and calls and generate go to it."""

    def __init__(self, model: Model) -> None:
        self.bloomery_model = model
        self.config = _Config(model.info.name, model.info.model_type)

    @property
    def module(self) -> InferenceEngine:
        """The model itself: this object, for `pipeline(model=engine.module)` and `engine.module.generate`."""
        return self

    @property
    def device(self) -> str:
        """Where inputs may be moved to."""
        return "cpu"

    def generate(self, input_ids: Any = None, attention_mask: Any = None, **arguments: Any) -> Any:
        """transformers' generate: token ids [sequences, tokens] in (left-padded, with a mask), prompt and answer out.

        The answer has the kind of the input: a torch tensor for one, else an array; shorter rows are filled up with the
        padding token. max_length and min_length count a prompt's padding, as there; without max_length and
        max_new_tokens the engine's default holds.
        """
        if input_ids is None:
            input_ids = arguments.pop("inputs", None)
        if input_ids is None:
            raise InvalidArgument("generate needs input_ids")
        rows = _rows(input_ids)
        masks = _rows(attention_mask) if attention_mask is not None else [[1] * len(row) for row in rows]
        width = len(rows[0]) if rows else 0
        pad = arguments.get("pad_token_id")
        options = generation_options(arguments)
        for name, new in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
            value = options.pop(name, None)
            if value is not None and options.get(new) is None:
                options[new] = value - width if name == "max_length" else max(0, value - width)
        prompts = [[token for token, kept in zip(row, mask) if kept] for row, mask in zip(rows, masks)]
        generations = self.bloomery_model.generate(prompts, **options)
        whole = [row + answer.token_ids for row, generation in zip(rows, generations) for answer in generation.sequences]
        return _like(input_ids, whole, self._pad(pad))

    def __call__(self, input_ids: Any, **_: Any) -> Any:
        """The forward pass: an object whose `.logits` are [sequences, tokens, vocab]."""
        rows = _rows(input_ids)
        logits = numpy.stack([self.bloomery_model.logits(row) for row in rows])
        return _Output(_as_torch(logits) if _is_torch(input_ids) else logits)

    def forward(self, input_ids: Any, **arguments: Any) -> Any:
        """The same as calling it."""
        return self(input_ids, **arguments)

    def eval(self) -> InferenceEngine:
        """Nothing here trains."""
        return self

    def to(self, *_: Any, **__: Any) -> InferenceEngine:
        """The engine is where it is."""
        return self

    def _pad(self, asked: int | None) -> int:
        if asked is not None:
            return int(asked)
        tokenizer = self.bloomery_model.tokenizer if self.bloomery_model._tokenizer is not None else None
        for token in (tokenizer.pad_token_id, tokenizer.eos_token_id) if tokenizer else ():
            if token is not None:
                return token
        return 0


class _Config:
    def __init__(self, name: str, model_type: str) -> None:
        self._name_or_path = name
        self.model_type = model_type


class _Output:
    def __init__(self, logits: Any) -> None:
        self.logits = logits

    def __getitem__(self, index: int) -> Any:
        return (self.logits,)[index]


def init_inference(
    model: Any,
    config: Mapping[str, Any] | None = None,
    *,
    mp_size: int | None = None,
    tensor_parallel: Mapping[str, Any] | None = None,
    dtype: object = None,
    checkpoint: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    base_dir: str | os.PathLike[str] | None = None,
    injection_policy: object = None,
    max_out_tokens: int | None = None,
    max_tokens: int | None = None,
    save_mp_checkpoint_path: str | None = None,
    policy: str | os.PathLike[str] | None = None,
    **others: Any,
) -> InferenceEngine:
    """deepspeed.init_inference on this engine.

    model: a directory, or an object that knows its own (transformers' models and configurations do: `name_or_path`,
    `config._name_or_path`); its weights are not taken from it but read from there.
    mp_size, tensor_parallel={"tp_size": n}: as `load`'s tensor_parallel_degree.
    checkpoint: a DeepSpeed checkpoint's JSON file (or its contents, or its directory), in place of the model's weights;
    base_dir: where its files are.
    max_out_tokens: prompt and answer at most, cut to what the model was made for.
    injection_policy is not needed: architectures are described (policy=, docs/reference/architectures.md).
    config: the same arguments in a dictionary. What has no meaning here is named in one warning.
    """
    if config is not None:
        merged = {**dict(config), **{name: value for name, value in _given(locals()).items()}}
        merged.pop("config", None)
        return init_inference(model, **{**merged, **others})
    ignored = sorted(name for name, value in others.items() if name not in _SILENT and value is not None)
    if injection_policy is not None:
        ignored.append("injection_policy")
    if save_mp_checkpoint_path is not None:
        ignored.append("save_mp_checkpoint_path (`bloomery shard` makes what loads fastest)")
    if ignored:
        warnings.warn(f"init_inference: without meaning here: {', '.join(ignored)}", stacklevel=2)
    degree = mp_size or int((tensor_parallel or {}).get("tp_size", 1))
    loaded = load(
        _directory(model, checkpoint, base_dir),
        dtype=dtype,
        tensor_parallel_degree=degree,
        max_context_tokens=max_out_tokens or max_tokens or 0,
        policy=policy,
    )
    return InferenceEngine(loaded)


_ARGUMENTS = ("mp_size", "tensor_parallel", "dtype", "checkpoint", "base_dir", "injection_policy", "max_out_tokens", "max_tokens", "save_mp_checkpoint_path", "policy")


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: values[name] for name in _ARGUMENTS if values[name] is not None}


def _directory(model: Any, checkpoint: Any, base_dir: Any) -> pathlib.Path:
    """Where the weights are."""
    if checkpoint is not None:
        if isinstance(checkpoint, Mapping):
            folder = base_dir or checkpoint.get("base_dir")
        else:
            path = pathlib.Path(checkpoint)
            if base_dir is None and path.is_file():
                base_dir = json.loads(path.read_text(encoding="utf-8")).get("base_dir") or path.parent
            folder = base_dir or path
        if not folder or not pathlib.Path(folder).is_dir():
            raise NotFound(f"checkpoint: there is no directory {folder}; base_dir says where its files are")
        return pathlib.Path(folder)
    if isinstance(model, (str, os.PathLike)):
        return pathlib.Path(model)
    name = getattr(model, "name_or_path", None) or getattr(getattr(model, "config", model), "_name_or_path", None)
    if not isinstance(name, (str, os.PathLike)) or not str(name):
        raise InvalidArgument("init_inference: give a directory, or an object with name_or_path or config._name_or_path")
    return pathlib.Path(name)


def _rows(values: Any) -> list[list[int]]:
    """Of a tensor, an array or lists; one row for one sequence."""
    listed = values.tolist() if hasattr(values, "tolist") else list(values)
    if listed and not isinstance(listed[0], Sequence):
        listed = [listed]
    return [[int(value) for value in row] for row in listed]


def _is_torch(values: Any) -> bool:
    return "torch" in sys.modules and isinstance(values, sys.modules["torch"].Tensor)


def _as_torch(array: Any) -> Any:
    return sys.modules["torch"].from_numpy(array)


def _like(values: Any, rows: list[list[int]], pad: int) -> Any:
    width = max(map(len, rows), default=0)
    array = numpy.array([row + [pad] * (width - len(row)) for row in rows], dtype=numpy.int64)
    return _as_torch(array) if _is_torch(values) else array
