"""Large language models on the processors there are: the engine of the program `bloomery`, from Python.

    model = bloomery.load("opt-1.3b", dtype="int8")
    print(model.generate("It is a truth", max_new_tokens=24))
    for piece in model.stream("It is a truth"):
        print(piece.text, end="", flush=True)

`pipeline` is transformers' text-generation pipeline and `init_inference` DeepSpeed's, for programs written for these.
"""

from . import _native
from ._native import ModelInfo, TokenLogprob
from .deepspeed import InferenceEngine, init_inference
from .errors import CorruptData, Error, InvalidArgument, NotFound, OutOfMemory, Unavailable, Unsupported
from .model import Answer, Generation, GenerationOptions, Model, Piece, load
from .pipelines import TextGenerationPipeline, pipeline
from .tokenizer import Tokenizer

__all__ = [
    "Answer",
    "CorruptData",
    "Error",
    "Generation",
    "GenerationOptions",
    "InferenceEngine",
    "InvalidArgument",
    "Model",
    "ModelInfo",
    "NotFound",
    "OutOfMemory",
    "Piece",
    "TextGenerationPipeline",
    "TokenLogprob",
    "Tokenizer",
    "Unavailable",
    "Unsupported",
    "init_inference",
    "load",
    "pipeline",
    "set_log_level",
]
__version__ = "0.1.0"


def set_log_level(level: str) -> None:
    """What the engine says on standard error: "trace", "debug", "info", "warn" (the default), "error" or "off"."""
    _native.set_log_level(level)
