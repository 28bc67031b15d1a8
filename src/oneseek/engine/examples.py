"""From rows to token ids, labels and answer tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Encoding, Tokenizer

from oneseek.chat.render import ChatTemplate, Rendered, Span, render_row
from oneseek.datasets.read import read_dataset
from oneseek.datasets.split import split
from oneseek.engine.interface import Assignment
from oneseek.errors import WorkerFailed
from oneseek.registry.discover import describe

IGNORED = -100  # the label of a token that is not learned; what torch's cross-entropy leaves out


@dataclass(frozen=True)
class Example:
    """One row as the model sees it. The three sequences have one entry per token.

    `labels` holds the token's own id where it is learned, `IGNORED` elsewhere. `answer_mask` marks the learned tokens
    that cover characters of the answers; `answer_bytes` is the length of those answers in UTF-8.
    """

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]
    answer_mask: tuple[bool, ...]
    answer_bytes: int
    truncated: bool

    @property
    def supervised_tokens(self) -> int:
        return sum(label != IGNORED for label in self.labels)


@dataclass(frozen=True)
class Encoder:
    """Turns the rows of one assignment into examples of at most `max_length` tokens."""

    tokenizer: Tokenizer
    template: ChatTemplate | None
    eos: str
    format: str
    max_length: int

    def encode(self, row: dict[str, Any]) -> Example:
        """Render a row and tokenise the whole rendering at once.

        Tokenising it piece by piece would give other tokens at the seams than the model meets when it answers.
        """
        rendered = render_row(row, self.format, self.template, self.eos)
        # A chat template writes the tokenizer's special tokens itself; plain text needs them added.
        encoding = self.tokenizer.encode(rendered.text, add_special_tokens=self.template is None)
        return label(encoding, rendered, self.max_length)


def split_rows(assignment: Assignment) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
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
    return [dataset.rows[i] for i in parts.training], [dataset.rows[i] for i in parts.validation]


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
        eos=info.special_tokens.get("eos_token", ""),
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


def label(encoding: Encoding, rendered: Rendered, max_length: int) -> Example:
    """Mark the tokens of a rendering that are learned, and cut it to `max_length` from the end.

    The first token is never learned: nothing stands before it to predict it from.
    """
    spans = _character_spans(encoding)
    supervised = _overlapping(spans, rendered.supervised)
    answers = _overlapping(spans, rendered.answers)
    supervised[:1] = [False] * len(supervised[:1])
    ids = encoding.ids[:max_length]
    return Example(
        input_ids=tuple(ids),
        labels=tuple(token if learned else IGNORED for token, learned in zip(ids, supervised, strict=False)),
        answer_mask=tuple(
            learned and answer for learned, answer in zip(supervised[:max_length], answers[:max_length], strict=True)
        ),
        answer_bytes=rendered.answer_bytes,
        truncated=len(encoding.ids) > max_length,
    )


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
