"""From a row to token ids, labels and answer tokens, as one model's tokenizer and template have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from oneseek.chat.render import Rendered, render_preference, render_row
from oneseek.chat.template import ChatTemplate
from oneseek.chat.turns import Span
from oneseek.datasets.formats import METHOD_OF, STRATEGY_OF, UsedFormat
from oneseek.datasets.token_cache import TokenCache
from oneseek.errors import DatasetError, ModelError
from oneseek.files.durable import sha256_bytes, sha256_file
from oneseek.registry.capabilities import ModelInfo

IGNORED = -100  # the label of a token that is not learned; what torch's cross-entropy leaves out

TOKENIZER = "tokenizer.json"

LONGEST_TEXT = 4_000_000
"""Characters of one example. Tokenising takes about 200 bytes of memory for each, and a model reads few of them."""


@dataclass(frozen=True, eq=False)
class Example:
    """One row as the model sees it. The three arrays have one entry per token.

    `labels` holds the token's own id where it is learned, `IGNORED` elsewhere. `answer_mask` marks the learned tokens
    that cover characters of the answers; `answer_bytes` is the length of those answers in UTF-8, without what only the
    row's first token covers, which nothing predicts.
    """

    input_ids: NDArray[np.int32]
    labels: NDArray[np.int32]
    answer_mask: NDArray[np.bool_]
    answer_bytes: int
    truncated: bool

    @cached_property
    def supervised_tokens(self) -> int:
        return int(np.count_nonzero(self._learned))

    @property
    def learned_answer_marks(self) -> list[bool]:
        """For each learned token, in order, whether it covers characters of the answers."""
        marks: list[bool] = self.answer_mask[self._learned].tolist()
        return marks

    @property
    def _learned(self) -> NDArray[np.bool_]:
        learned: NDArray[np.bool_] = self.labels != IGNORED
        return learned


@dataclass(frozen=True)
class Encoder:
    """Turns rows into examples of at most `max_length` tokens.

    `special_tokens` are the model's, by the names that tokenizer_config.json gives them (`eos_token`). `format` is one
    that rows are used in. `sources` is a digest of the files that tokenizer and template were read from; a `cache` goes
    by it.
    """

    tokenizer: Tokenizer
    template: ChatTemplate | None
    special_tokens: Mapping[str, str]
    format: UsedFormat
    max_length: int
    sources: str = ""
    cache: TokenCache | None = None

    @property
    def eos(self) -> str:
        return self.special_tokens.get("eos_token", "")

    def encode(self, row: dict[str, Any]) -> list[Example]:
        """One row: an example, or those of a preference's chosen and rejected answer.

        Raises:
            DatasetError, ModelError: as `render_row`.
        """
        return self.encode_texts(self.render(row))

    def render(self, row: dict[str, Any]) -> tuple[Rendered, ...]:
        """What the row is as text, for each of its examples.

        Raises:
            DatasetError, ModelError: as `render_row`; DatasetError also when a text is too long to be tokenised.
        """
        if METHOD_OF[self.format] == "dpo":
            texts: tuple[Rendered, ...] = render_preference(row, self.format, self.template, self.eos)
        else:
            texts = (render_row(row, self.format, self.template, self.eos),)
        longest = max(len(rendered.text) for rendered in texts)
        if longest > LONGEST_TEXT:
            raise DatasetError(
                f"The row has {longest:,} characters; more than {LONGEST_TEXT:,} are not tokenised.",
                "Split it into several rows, or shorten it.",
            )
        return texts

    def encode_texts(self, texts: Sequence[Rendered]) -> list[Example]:
        """Tokenise each rendering whole, several at once where the process has threads for it.

        Tokenising it piece by piece would give other tokens at the seams than the model meets when it answers.
        """
        # A chat template writes the tokenizer's special tokens itself; plain text needs them added.
        plain = self.template is None
        encodings = self.tokenizer.encode_batch([rendered.text for rendered in texts], add_special_tokens=plain)
        return [
            label(
                encoding,
                rendered,
                self.max_length,
                leading_tokens(self.tokenizer, self.special_tokens, encoding) if plain else (),
            )
            for encoding, rendered in zip(encodings, texts, strict=True)
        ]


def encoder_of(info: ModelInfo, form: UsedFormat, max_length: int, cache: TokenCache | None = None) -> Encoder:
    """The encoder of a base model whose files are here, for rows of a format. No example is longer than its context.

    Raises:
        ModelError: it has no tokenizer.json, or no chat template that can be used where one is needed.
    """
    chat = STRATEGY_OF[form] == "chat"
    if chat and info.chat_template is None:
        raise ModelError(
            f"{info.display_name} has no chat template.", "Set data.strategy to 'standard', or leave it out."
        )
    source = info.chat_template if chat else None
    path = Path(info.path)
    tokenizer = load_tokenizer(path)
    return Encoder(
        tokenizer=tokenizer,
        template=None if source is None else ChatTemplate(source, info.special_tokens),
        special_tokens=info.special_tokens,
        format=form,
        max_length=min(max_length, info.context_length or max_length),
        sources=sha256_bytes(msgspec.json.encode([sha256_file(path / TOKENIZER), source])),
        cache=cache,
    )


def leading_tokens(tokenizer: Tokenizer, special_tokens: Mapping[str, str], encoding: Encoding) -> tuple[int, ...]:
    """What is put before plain text to predict its first token from: BOS, else EOS; nothing where the tokenizer puts a
    token there itself. Else models would be measured over different bytes of one answer."""
    if encoding.special_tokens_mask[:1] == [1]:
        return ()
    names = (special_tokens.get(name) for name in ("bos_token", "eos_token"))
    found = (tokenizer.token_to_id(name) for name in names if name)
    return next(((token,) for token in found if token is not None), ())


def load_tokenizer(model: Path) -> Tokenizer:
    """The tokenizer of a model directory, without the padding and truncation that its file may ask for.

    Read with `tokenizers` directly: importing transformers' classes for it takes seconds.

    Raises:
        ModelError: there is no tokenizer.json, or it can't be read.
    """
    path = model / TOKENIZER
    if not path.is_file():
        raise ModelError(
            f"{model.name} has no tokenizer.json.",
            "Save its tokenizer once with transformers: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR).",
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing more precise
        raise ModelError(f"{path} can't be read: {error}.", "Download the model again.") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


# -- which tokens are learned --------------------------------------------------------------------------------------


def label(encoding: Encoding, rendered: Rendered, max_length: int, leading: tuple[int, ...] = ()) -> Example:
    """Mark the tokens of a rendering that are learned, and cut it to `max_length` from the end.

    The first token is never learned: nothing stands before it to predict it from. `leading` are tokens to put before
    the rendering's own.
    """
    starts, ends = _character_spans(encoding, len(leading))
    supervised = _overlapping(starts, ends, rendered.supervised)
    supervised[:1] = False
    answers = _overlapping(starts, ends, rendered.answers)
    ids = np.array([*leading, *encoding.ids][:max_length], dtype=np.int32)
    learned = supervised[:max_length]
    return Example(
        input_ids=ids,
        labels=np.where(learned, ids, np.int32(IGNORED)),
        answer_mask=learned & answers[:max_length],
        answer_bytes=_predicted_bytes(rendered, starts, answers),
        truncated=len(supervised) > max_length,
    )


def _predicted_bytes(rendered: Rendered, starts: NDArray[np.int64], answers: NDArray[np.bool_]) -> int:
    """UTF-8 bytes of the answers' characters, less those that the first token alone covers. 0 where no token but the
    first covers any."""
    if not answers[1:].any():
        return 0
    if not answers[0]:
        return rendered.answer_bytes
    first = int(starts[1:][answers[1:]][0])
    return sum(len(rendered.text[max(a.start, first) : a.end].encode()) for a in rendered.answers)


def _character_spans(encoding: Encoding, leading: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the characters that each token covers begin and end; nothing (0 to 0, or an end that is not after its
    beginning) for tokens that the tokenizer added, and for `leading` ones before them. Both (tokens,).

    Some tokenizers trim white space off their offsets, which leaves a token of nothing but white space without
    characters. It covers what lies between its neighbours: an answer's indentation must be learned too.
    """
    count = len(encoding)
    offsets = np.zeros((leading + count, 2), dtype=np.int64)
    offsets[leading:] = np.fromiter(chain.from_iterable(encoding.offsets), np.int64, 2 * count).reshape(count, 2)
    offsets[leading:][np.frombuffer(bytes(encoding.special_tokens_mask), dtype=np.bool_)] = 0
    starts, ends = offsets.T
    covered = np.zeros_like(ends)  # up to here, by the tokens before
    covered[1:] = np.maximum.accumulate(ends)[:-1]
    return np.where(starts == ends, covered, starts), ends


def _overlapping(
    starts: NDArray[np.int64], ends: NDArray[np.int64], spans: Sequence[Span]
) -> NDArray[np.bool_]:  # (tokens,)
    """Which tokens share a character with a span. The spans are ordered and disjoint, the tokens need not be."""
    begins = np.array([*(span.start for span in spans), np.iinfo(np.int64).max])
    candidate = np.searchsorted([span.end for span in spans], starts, side="right")  # the first to end after a start
    marks: NDArray[np.bool_] = (begins[candidate] < ends) & (ends > starts)
    return marks
