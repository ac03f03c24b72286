"""transformers' text-generation pipeline, on this engine.

What a program written for it finds the same: `pipe("text")` is a list of `{"generated_text": …}`, one for each of
num_return_sequences; a list of texts gives a list of such lists; the prompt is a part of generated_text unless
return_full_text=False; return_tensors=True gives `{"generated_token_ids": […]}` instead.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, overload

from .errors import InvalidArgument, Unsupported
from .model import GenerationOptions, Model, load

# Arguments that change nothing here: texts are never batched by the caller, and decoding cleans nothing up.
_WITHOUT_MEANING = {"batch_size", "num_workers", "clean_up_tokenization_spaces", "use_cache", "pad_token_id", "padding", "truncation", "synced_gpus"}
_OPTIONS = frozenset(GenerationOptions.__annotations__)


def generation_options(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of transformers' generate as this engine's; InvalidArgument names what there is not."""
    options = {name: value for name, value in arguments.items() if name not in _WITHOUT_MEANING}
    if "stop_sequence" in options:
        options["stop"] = options.pop("stop_sequence")
    if "stop_strings" in options:
        options["stop"] = options.pop("stop_strings")
    unknown = sorted(set(options) - _OPTIONS)
    if unknown:
        raise InvalidArgument(f"unknown argument: {', '.join(unknown)}; there are {', '.join(sorted(_OPTIONS))}")
    return options


class TextGenerationPipeline:
    """Made by `pipeline`. Arguments given there are defaults of every call."""

    task = "text-generation"

    def __init__(self, model: Model, **defaults: Any) -> None:
        self.model = model
        self._defaults = defaults

    @property
    def tokenizer(self) -> Any:
        """The model's."""
        return self.model.tokenizer

    @overload
    def __call__(self, text_inputs: str, **arguments: Any) -> list[dict[str, Any]]: ...
    @overload
    def __call__(self, text_inputs: Sequence[str], **arguments: Any) -> list[list[dict[str, Any]]]: ...
    def __call__(self, text_inputs: str | Sequence[str], **arguments: Any) -> list[dict[str, Any]] | list[list[dict[str, Any]]]:
        """Continues a text, or each of a list, computed together. Other arguments are `Model.generate`'s."""
        arguments = {**self._defaults, **arguments}
        return_tensors = bool(arguments.pop("return_tensors", False))
        full_text = arguments.pop("return_full_text", None)
        if not arguments.pop("return_text", True):
            full_text = None
            return_tensors = True
        prefix = arguments.pop("prefix", None) or ""
        one = isinstance(text_inputs, str)
        texts = [text_inputs] if isinstance(text_inputs, str) else list(text_inputs)
        if not all(isinstance(text, str) for text in texts):
            raise Unsupported("a pipeline takes text, or a list of texts; for chats, apply the model's template first")
        generations = self.model.generate([prefix + text for text in texts], **generation_options(arguments))
        answers: list[list[dict[str, Any]]] = []
        for text, generation in zip(texts, generations):
            if return_tensors:
                answers.append([{"generated_token_ids": generation.prompt_token_ids + answer.token_ids} for answer in generation.sequences])
            else:
                before = text if full_text is None or full_text else ""
                answers.append([{"generated_text": before + answer.text} for answer in generation.sequences])
        return answers[0] if one else answers


def pipeline(*arguments: Any, model: Model | str | os.PathLike[str] | None = None, task: str = "text-generation", **defaults: Any) -> TextGenerationPipeline:
    """A text-generation pipeline: `pipeline(model)` or, as transformers has it, `pipeline("text-generation", model=…)`.

    A model is a `Model`, a path, or what `init_inference` returns. torch_dtype (or dtype) is used where a path is loaded;
    tokenizer, device, device_map and framework are taken and change nothing. What else is given is a default of every call.
    """
    positional = list(arguments)
    if positional and positional[0] in ("text-generation", "text2text-generation") and (len(positional) > 1 or model is not None):
        task = positional.pop(0)
    if positional and model is None:
        model = positional.pop(0)
    if task != "text-generation":
        raise Unsupported(f'task "{task}": there is "text-generation" alone')
    for name in ("tokenizer", "device", "device_map", "framework", "trust_remote_code"):
        defaults.pop(name, None)
    dtype = defaults.pop("torch_dtype", defaults.pop("dtype", "auto"))
    model = getattr(model, "bloomery_model", model)
    if model is None:
        raise InvalidArgument("pipeline needs a model")
    if not isinstance(model, Model):
        model = load(model, dtype=dtype)
    return TextGenerationPipeline(model, **defaults)
