"""A model's tokenizer, with the calls of transformers' tokenizers that programs around generate() make."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import overload

from . import _native


class Tokenizer:
    """Text to token ids and back, exactly as Hugging Face's `tokenizers` does it. Immutable."""

    def __init__(self, native: _native.Tokenizer) -> None:
        self._native = native

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """The text's token ids; add_special_tokens: what the model puts around a text, such as its first token."""
        return self._native.encode(text, add_special_tokens)

    def decode(self, token_ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """The text of token ids; ids that do not exist are skipped, bytes that are no UTF-8 become U+FFFD.

        As everywhere in this package special tokens are left out unless asked for; transformers keeps them by default.
        """
        return self._native.decode([int(token) for token in token_ids], skip_special_tokens)

    def batch_decode(self, sequences: Iterable[Iterable[int]], *, skip_special_tokens: bool = True) -> list[str]:
        """`decode` of each."""
        return [self.decode(sequence, skip_special_tokens=skip_special_tokens) for sequence in sequences]

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a str is a Sequence[str] too; it is taken first
        self, text: str, *, add_special_tokens: bool = True, padding: bool = False, truncation: bool = False, max_length: int | None = None
    ) -> dict[str, list[int]]: ...
    @overload
    def __call__(
        self, text: Sequence[str], *, add_special_tokens: bool = True, padding: bool = False, truncation: bool = False, max_length: int | None = None
    ) -> dict[str, list[list[int]]]: ...
    def __call__(
        self, text: str | Sequence[str], *, add_special_tokens: bool = True, padding: bool = False, truncation: bool = False, max_length: int | None = None
    ) -> dict[str, list[int]] | dict[str, list[list[int]]]:
        """`input_ids` and `attention_mask` of a text, or of each text of a list.

        padding fills up to the longest, on the left, where a generating model needs it; truncation keeps the first
        max_length tokens.
        """
        texts = [text] if isinstance(text, str) else list(text)
        ids = [self.encode(one, add_special_tokens=add_special_tokens) for one in texts]
        if truncation and max_length is not None:
            ids = [one[:max_length] for one in ids]
        width = max(map(len, ids), default=0) if padding else 0
        fill = self.pad_token_id if self.pad_token_id is not None else self.eos_token_id or 0
        mask = [[0] * (width - len(one)) + [1] * len(one) for one in ids]
        ids = [[fill] * (width - len(one)) + one for one in ids]
        if isinstance(text, str):
            return {"input_ids": ids[0], "attention_mask": mask[0]}
        return {"input_ids": ids, "attention_mask": mask}

    def token_to_id(self, token: str) -> int | None:
        """The id of a token by its content, None where there is none."""
        return self._native.token_to_id(token)

    def __len__(self) -> int:
        return self._native.vocab_size

    @property
    def vocab_size(self) -> int:
        """The highest id, plus one."""
        return self._native.vocab_size

    @property
    def bos_token_id(self) -> int | None:
        """The token that texts begin with."""
        return self._native.bos_id

    @property
    def eos_token_id(self) -> int | None:
        """The token that texts end with."""
        return self._native.eos_id

    @property
    def pad_token_id(self) -> int | None:
        """The token that fills up a batch."""
        return self._native.pad_id
