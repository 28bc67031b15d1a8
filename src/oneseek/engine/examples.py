"""From rows to token ids, labels and answer tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from oneseek.chat.render import Rendered, render_row
from oneseek.chat.template import ChatTemplate
from oneseek.chat.turns import Span
from oneseek.datasets.read import read_dataset
from oneseek.datasets.split import split
from oneseek.engine.interface import Assignment
from oneseek.engine.token_cache import TokenCache
from oneseek.errors import DatasetError, ModelError, WorkerFailed
from oneseek.files.durable import sha256_bytes, sha256_file
from oneseek.registry.discover import describe

IGNORED = -100  # the label of a token that is not learned; what torch's cross-entropy leaves out

TOKENIZER = "tokenizer.json"

# Raise it with every change of what a row is encoded to, here or in `chat`: what was cached before is not used then.
ENCODING: Final = 1

_AT_ONCE = 64  # rows; an `Encoding` takes kilobytes for what an example keeps in a few bytes a token


class NumberedRow(NamedTuple):
    """A normalised row and the line of the dataset on which it starts."""

    line: int
    row: dict[str, Any]


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
    """Turns the rows of one assignment into examples of at most `max_length` tokens.

    `special_tokens` are the model's, by the names that tokenizer_config.json gives them (`eos_token`). `sources` is a
    digest of the files that tokenizer and template were read from; a `cache` goes by it.
    """

    tokenizer: Tokenizer
    template: ChatTemplate | None
    special_tokens: Mapping[str, str]
    format: str
    max_length: int
    sources: str = ""
    cache: TokenCache | None = None

    @property
    def eos(self) -> str:
        return self.special_tokens.get("eos_token", "")

    def encode(self, row: dict[str, Any]) -> Example:
        """One row of any format but preferences.

        Raises:
            DatasetError, ModelError: as `render_row`.
        """
        return self.encode_texts([self.render(row)])[0]

    def render(self, row: dict[str, Any]) -> Rendered:
        return render_row(row, self.format, self.template, self.eos)

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


def leading_tokens(tokenizer: Tokenizer, special_tokens: Mapping[str, str], encoding: Encoding) -> tuple[int, ...]:
    """What is put before plain text to predict its first token from: BOS, else EOS; nothing where the tokenizer puts a
    token there itself. Else models would be measured over different bytes of one answer."""
    if encoding.special_tokens_mask[:1] == [1]:
        return ()
    names = (special_tokens.get(name) for name in ("bos_token", "eos_token"))
    found = (tokenizer.token_to_id(name) for name in names if name)
    return next(((token,) for token in found if token is not None), ())


def encode_rows(encoder: Encoder, rows: Sequence[NumberedRow], dataset: str) -> list[Example]:
    """The examples of a dataset's rows, in their order; out of the encoder's cache where they are there.

    Raises:
        WorkerFailed: the model's template refuses a row; its line is named.
    """
    return encode_each(encoder, rows, dataset, lambda row: (encoder.render(row),))


def encode_each(
    encoder: Encoder, rows: Sequence[NumberedRow], dataset: str, render: Callable[[dict[str, Any]], Sequence[Rendered]]
) -> list[Example]:
    """The examples of every rendering of each row, one after the other, as `encode_rows` says.

    render: what the encoder's format makes of a row; the cache tells formats apart, not functions.
    """
    if encoder.cache is None:
        return _encode(encoder, rows, dataset, render)
    key = _key(encoder, rows)
    stored = encoder.cache.get(key)
    if stored is not None:
        return list(_unpacked(stored))
    examples = _encode(encoder, rows, dataset, render)
    encoder.cache.put(key, _packed(examples))
    return examples


def _encode(
    encoder: Encoder, rows: Sequence[NumberedRow], dataset: str, render: Callable[[dict[str, Any]], Sequence[Rendered]]
) -> list[Example]:
    examples = []
    for start in range(0, len(rows), _AT_ONCE):
        texts: list[Rendered] = []
        for line, row in rows[start : start + _AT_ONCE]:
            try:
                texts += render(row)
            except (DatasetError, ModelError) as error:
                raise WorkerFailed("refused", f"{dataset}, line {line}: {error.problem}", error.fix) from error
        examples += encoder.encode_texts(texts)
    return examples


# -- the rows and the tokenizer of an assignment -------------------------------------------------------------------


def split_rows(assignment: Assignment) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The assignment's training and validation rows, as `numbered_rows` gives them, without their lines."""
    training, validation = numbered_rows(assignment)
    return [row for _, row in training], [row for _, row in validation]


def numbered_rows(assignment: Assignment) -> tuple[list[NumberedRow], list[NumberedRow]]:
    """The assignment's training and validation rows, the same for every model of a run.

    Raises:
        WorkerFailed: the file is no longer the one that the assignment names.
        DatasetError: it can't be read.
    """
    dataset = read_dataset(Path(assignment.dataset_path))
    if dataset.sha256 != assignment.dataset_sha256:
        raise WorkerFailed(
            "refused",
            f"{assignment.dataset_path} has changed: its SHA-256 is {dataset.sha256}, the run began with "
            f"{assignment.dataset_sha256}.",
            "Put the file of the run's beginning back, or start a new run.",
        )
    parts = split(dataset.digests, assignment.validation_split, assignment.seed)
    numbered = [NumberedRow(line, row) for line, row in zip(dataset.lines, dataset.rows, strict=True)]
    return [numbered[i] for i in parts.training], [numbered[i] for i in parts.validation]


def encoder_for(assignment: Assignment) -> Encoder:
    """The encoder of an assignment: its model's tokenizer, template and context length.

    Raises:
        WorkerFailed: the model has no tokenizer.json, or no chat template where one is needed.
    """
    model = Path(assignment.model_path)
    info = describe(model)
    if assignment.strategy == "chat" and info.chat_template is None:
        raise WorkerFailed(
            "refused", f"{assignment.key} has no chat template.", "Set data.strategy to 'standard', or leave it out."
        )
    source = info.chat_template if assignment.strategy == "chat" else None
    tokenizer = load_tokenizer(model)
    return Encoder(
        tokenizer=tokenizer,
        template=None if source is None else ChatTemplate(source, info.special_tokens),
        special_tokens=info.special_tokens,
        format=assignment.format,
        max_length=min(assignment.max_length, info.context_length or assignment.max_length),
        sources=sha256_bytes(msgspec.json.encode([sha256_file(model / TOKENIZER), source])),
        cache=None if assignment.cache_directory is None else TokenCache(Path(assignment.cache_directory)),
    )


def load_tokenizer(model: Path) -> Tokenizer:
    """The tokenizer of a model directory, without the padding and truncation that its file may ask for.

    Read with `tokenizers` directly: importing transformers' classes for it takes seconds.

    Raises:
        WorkerFailed: there is no tokenizer.json, or it can't be read.
    """
    path = model / TOKENIZER
    if not path.is_file():
        raise WorkerFailed(
            "refused",
            f"{model.name} has no tokenizer.json.",
            "Save its tokenizer once with transformers: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR).",
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing more precise
        raise WorkerFailed("refused", f"{path} can't be read: {error}.", "Download the model again.") from error
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


# -- what a cache keeps --------------------------------------------------------------------------------------------


def _key(encoder: Encoder, rows: Sequence[NumberedRow]) -> str:
    """SHA-256 in hex of all that the examples depend on: what was written in the rows, and who encodes it."""
    made_by = [
        ENCODING,
        version("tokenizers"),
        version("jinja2"),
        encoder.sources,
        sorted(encoder.special_tokens.items()),
        encoder.format,
        encoder.max_length,
    ]
    digest = hashlib.sha256(msgspec.json.encode(made_by))
    for _, row in rows:
        # Not with sorted keys: a template may print an object as it stands.
        digest.update(b"\n" + msgspec.json.encode(row))
    return digest.hexdigest()


_LEARNED, _ANSWER = 1, 2  # bits of a token's mark


def _packed(examples: Sequence[Example]) -> bytes:
    """Little-endian: the number of examples; for each its tokens, answer bytes and whether it was cut (int64); every
    token's id (int32), then every token's mark (uint8)."""
    sizes = [(len(example.input_ids), example.answer_bytes, example.truncated) for example in examples]
    ids = [example.input_ids for example in examples]
    marks = [(example.labels != IGNORED) * _LEARNED + example.answer_mask * _ANSWER for example in examples]
    return b"".join(
        (
            np.array([len(examples), *chain.from_iterable(sizes)], dtype="<i8").tobytes(),
            *(part.astype("<i4").tobytes() for part in ids),
            *(part.astype("u1").tobytes() for part in marks),
        )
    )


def _unpacked(stored: memoryview) -> Iterator[Example]:
    """The examples that `_packed` made bytes of. Their arrays are views of few large ones."""
    count = int(np.frombuffer(stored, "<i8", 1)[0])
    sizes = np.frombuffer(stored, "<i8", 3 * count, offset=8).reshape(count, 3)
    tokens, begin = int(sizes[:, 0].sum()), 8 + sizes.nbytes
    ids = np.frombuffer(stored, "<i4", tokens, offset=begin).astype(np.int32, copy=False)
    marks = np.frombuffer(stored, "u1", tokens, offset=begin + ids.nbytes)
    labels = np.where(marks & _LEARNED, ids, np.int32(IGNORED))
    answer_mask = (marks & _ANSWER).astype(np.bool_)
    start = 0
    for length, answer_bytes, truncated in sizes.tolist():
        part = slice(start, start + length)
        yield Example(ids[part], labels[part], answer_mask[part], answer_bytes, bool(truncated))
        start += length
