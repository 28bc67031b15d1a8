"""The tokens of a tokenizer.json and their ids: the few parts of it that describe a model, and nothing else."""

from __future__ import annotations

import msgspec


class _AddedToken(msgspec.Struct):
    id: int
    content: str


class _TokenizerModel(msgspec.Struct):
    # BPE, WordPiece and WordLevel map tokens to ids; Unigram lists (token, score), and the place is the id.
    vocab: dict[str, int] | list[tuple[str, float]]


class Vocabulary(msgspec.Struct, frozen=True):
    """What a tokenizer.json says of its tokens, those added later included."""

    model: _TokenizerModel
    added_tokens: list[_AddedToken] = []

    @property
    def highest_id(self) -> int | None:
        vocab = self.model.vocab
        ids = vocab.values() if isinstance(vocab, dict) else range(len(vocab))
        return max([*ids, *(token.id for token in self.added_tokens)], default=None)

    def text_of(self, token_id: int) -> str | None:
        """The token with this id; an added one goes before one of the model's own."""
        for token in self.added_tokens:
            if token.id == token_id:
                return token.content
        vocab = self.model.vocab
        if isinstance(vocab, dict):
            return next((text for text, number in vocab.items() if number == token_id), None)
        return vocab[token_id][0] if 0 <= token_id < len(vocab) else None


def parse_vocabulary(data: bytes) -> Vocabulary | None:
    """The vocabulary in the bytes of a tokenizer.json; None where they hold none.

    Merges, by far the longest part, are passed over unread.
    """
    try:
        return msgspec.json.decode(data, type=Vocabulary)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None  # who loads the tokenizer says what is wrong with it
