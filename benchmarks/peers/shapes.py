"""The published sizes that bloomery knows by name, read from the file that it embeds, so that every engine runs the same shape."""

import dataclasses
import json
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[2]
PUBLISHED = json.loads((ROOT / "src/model/architectures/shapes.json").read_text(encoding="utf-8"))

# Ids below this are special tokens in every family; bloomery bench draws its prompts from the same range.
FIRST_PLAIN_ID = 4


@dataclasses.dataclass(frozen=True)
class Shape:
    name: str
    family: str  # "opt" or "bloom"
    config: dict  # the published config.json
    hidden: int
    embed: int  # width of the embedding; where it is not hidden's, two projections join them
    layers: int
    heads: int
    vocab: int

    @property
    def step_weights(self):
        """Weights that one decode step must read: every matrix of every layer and the tied head; biases and norms are left out."""
        projections = 2 * self.hidden * self.embed if self.embed != self.hidden else 0
        return self.layers * 12 * self.hidden**2 + self.vocab * self.embed + projections


def shape_named(name):
    config = PUBLISHED[name]
    layers = config.get("num_hidden_layers", config.get("n_layer"))
    heads = config.get("num_attention_heads", config.get("n_head"))
    hidden = config["hidden_size"]
    embed = config.get("word_embed_proj_dim", hidden)
    return Shape(name, config["model_type"], config, hidden, embed, layers, heads, config["vocab_size"])
