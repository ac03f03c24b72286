"""The engines by name, in the order in which a round visits them."""

from engines.bloomery import Bloomery, PipelineParallel, TensorParallel
from engines.ct2 import CTranslate2
from engines.llamacpp import LlamaCpp
from engines.pytorch import TransformersEager

ENGINES = {engine.name: engine for engine in (Bloomery, TensorParallel, PipelineParallel, TransformersEager, CTranslate2, LlamaCpp)}
