"""From rows to token ids, labels and answer tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Encoding, Tokenizer

from oneseek.chat.render import Rendered, render_row
from oneseek.chat.template import ChatTemplate
from oneseek.chat.turns import Span
from oneseek.datasets.read import read_dataset
from oneseek.datasets.split import split
from oneseek.engine.interface import Assignment
from oneseek.errors import DatasetError, ModelError, WorkerFailed
from oneseek.registry.discover import describe

IGNORED = -100  # the label of a token that is not learned; what torch's cross-entropy leaves out


class NumberedRow(NamedTuple):
    """A normalised row and the line of the dataset on which it starts."""

    line: int
    row: dict[str, Any]


@dataclass(frozen=True)
class Example:
    """One row as the model sees it. The three sequences have one entry per token.

    `labels` holds the token's own id where it is learned, `IGNORED` elsewhere. `answer_mask` marks the learned tokens
    that cover characters of the answers; `answer_bytes` is the length of those answers in UTF-8, without what only the
    row's first token covers, which nothing predicts.
    """

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]
    answer_mask: tuple[bool, ...]
    answer_bytes: int
    truncated: bool

    @property
    def supervised_tokens(self) -> int:
        return sum(label != IGNORED for label in self.labels)

    @property
    def learned_answer_marks(self) -> list[bool]:
        """For each learned token, in order, whether it covers characters of the answers."""
        return [mark for mark, label in zip(self.answer_mask, self.labels, strict=True) if label != IGNORED]


@dataclass(frozen=True)
class Encoder:
    """Turns the rows of one assignment into examples of at most `max_length` tokens.

    `special_tokens` are the model's, by the names that tokenizer_config.json gives them (`eos_token`).
    """

    tokenizer: Tokenizer
    template: ChatTemplate | None
    special_tokens: Mapping[str, str]
    format: str
    max_length: int

    def encode(self, row: dict[str, Any]) -> Example:
        """Render a row and tokenise the whole rendering at once.

        Tokenising it piece by piece would give other tokens at the seams than the model meets when it answers.
        """
        rendered = render_row(row, self.format, self.template, self.special_tokens.get("eos_token", ""))
        # A chat template writes the tokenizer's special tokens itself; plain text needs them added.
        encoding = self.tokenizer.encode(rendered.text, add_special_tokens=self.template is None)
        return label(encoding, rendered, self.max_length, () if self.template else self._leading(encoding))

    def _leading(self, encoding: Encoding) -> tuple[int, ...]:
        """What is put before plain text to predict its first token from: BOS, else EOS; nothing where the tokenizer
        puts a token there itself. Else models would be measured over different bytes of one answer."""
        if encoding.special_tokens_mask[:1] == [1]:
            return ()
        names = (self.special_tokens.get(name) for name in ("bos_token", "eos_token"))
        found = (self.tokenizer.token_to_id(name) for name in names if name)
        return next(((token,) for token in found if token is not None), ())


def encode_rows(encoder: Encoder, rows: Iterable[NumberedRow], dataset: str) -> list[Example]:
    """The examples of a dataset's rows, in their order.

    Raises:
        WorkerFailed: the model's template refuses a row; its line is named.
    """
    examples = []
    for line, row in rows:
        try:
            examples.append(encoder.encode(row))
        except (DatasetError, ModelError) as error:
            raise WorkerFailed("refused", f"{dataset}, line {line}: {error.problem}", error.fix) from error
    return examples


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
    template = None
    if assignment.strategy == "chat" and info.chat_template is not None:
        template = ChatTemplate(info.chat_template, info.special_tokens)
    return Encoder(
        tokenizer=load_tokenizer(model),
        template=template,
        special_tokens=info.special_tokens,
        format=assignment.format,
        max_length=min(assignment.max_length, info.context_length or assignment.max_length),
    )


def load_tokenizer(model: Path) -> Tokenizer:
    """The tokenizer of a model directory, without the padding and truncation that its file may ask for.

    Read with `tokenizers` directly: importing transformers' classes for it takes seconds.

    Raises:
        WorkerFailed: there is no tokenizer.json, or it can't be read.
    """
    path = model / "tokenizer.json"
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


def label(encoding: Encoding, rendered: Rendered, max_length: int, leading: tuple[int, ...] = ()) -> Example:
    """Mark the tokens of a rendering that are learned, and cut it to `max_length` from the end.

    The first token is never learned: nothing stands before it to predict it from. `leading` are tokens to put before
    the rendering's own.
    """
    spans = [*(Span(0, 0) for _ in leading), *_character_spans(encoding)]
    supervised = _overlapping(spans, rendered.supervised)
    answers = _overlapping(spans, rendered.answers)
    supervised[:1] = [False] * len(supervised[:1])
    everything = [*leading, *encoding.ids]
    ids = everything[:max_length]
    return Example(
        input_ids=tuple(ids),
        labels=tuple(token if learned else IGNORED for token, learned in zip(ids, supervised, strict=False)),
        answer_mask=tuple(
            learned and answer for learned, answer in zip(supervised[:max_length], answers[:max_length], strict=True)
        ),
        answer_bytes=_predicted_bytes(rendered, spans, answers),
        truncated=len(everything) > max_length,
    )


def _predicted_bytes(rendered: Rendered, spans: Sequence[Span], answers: Sequence[bool]) -> int:
    """UTF-8 bytes of the answers' characters, less those that the first token alone covers. 0 where no token but the
    first covers any."""
    if not any(answers[1:]):
        return 0
    if not answers[0]:
        return rendered.answer_bytes
    first = next(span.start for span, answer in zip(spans[1:], answers[1:], strict=True) if answer)
    return sum(len(rendered.text[max(a.start, first) : a.end].encode()) for a in rendered.answers)


def _character_spans(encoding: Encoding) -> list[Span]:
    """The characters that each token covers; none for tokens that the tokenizer added.

    Some tokenizers trim white space off their offsets, which leaves a token of nothing but white space without
    characters. It covers what lies between its neighbours: an answer's indentation must be learned too.
    """
    spans = []
    covered = 0
    for (start, end), added in zip(encoding.offsets, encoding.special_tokens_mask, strict=True):
        if added:
            spans.append(Span(0, 0))
            continue
        spans.append(Span(covered if start == end else start, end))
        covered = max(covered, end)
    return spans


def _overlapping(tokens: Sequence[Span], spans: Sequence[Span]) -> list[bool]:
    """Which tokens share a character with a span. Both are in the order of the text."""
    marks = [False] * len(tokens)
    for span in spans:
        for index, token in enumerate(tokens):
            if token.start < span.end and token.end > span.start and token.end > token.start:
                marks[index] = True
    return marks
