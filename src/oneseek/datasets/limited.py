"""Rendering and tokenising for a base model in a process of its own, with little time and memory.

Chat templates are programs that came with a model. The sandbox keeps them from reaching out; only the kernel keeps them
from running for ever or filling the memory. So nothing here renders in this process: a child does, and what ends the
child is the row's fault and no one else's.
"""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import IO, Any, BinaryIO

import msgspec
import numpy as np

from oneseek import child
from oneseek.chat.probe import TemplateTraits, probe
from oneseek.chat.template import ChatTemplate
from oneseek.datasets.formats import STRATEGY_OF, UsedFormat
from oneseek.datasets.tokens import IGNORED, Encoder, Example, encoder_of
from oneseek.errors import DatasetError, ModelError
from oneseek.registry.capabilities import ModelInfo

SECONDS = 2.0
"""CPU time for one row. An honest template takes less than a millisecond."""

MEMORY = 2 * 2**30
"""Bytes of address space. A tokenizer of 260,000 tokens takes 0.3 GiB of them."""

_UNCUT = 2**31 - 1
_SHORTEST = 8  # tokens, the least that data.max_length may be: where only the template is asked for
_LOADING_SECONDS = 30.0  # a tokenizer of 260,000 tokens takes 1
_LAST_WORDS = 2**14  # bytes of a child's standard error


class Trouble(msgspec.Struct, frozen=True, tag=True):
    """Why the model cannot be used with any row, and the fix."""

    problem: str
    fix: str


class Traits(msgspec.Struct, frozen=True, tag=True):
    """What the model's chat template does; None where rows are plain text."""

    traits: TemplateTraits | None


class PromptTokens(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A prompt as the model would be asked it: its tokens, or why it cannot be asked."""

    number: int
    tokens: int = 0
    refusal: str | None = None


class RowTokens(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A row as the model meets it, or why it cannot (`refusal`, with its `fix`).

    `tokens` is the length of the row before anything is cut; of a preference, of its longer answer with the prompt.
    A row that is cut to `least` tokens or more is `learnable`: each of its answers has some that are learned, and two
    answers still differ. None: it is not, however long it may be. What follows holds after cutting: `supervised` tokens
    are learned (of both answers); it is `comparable` where bits per byte can be told of it.
    """

    line: int
    tokens: int = 0
    supervised: int = 0
    answer_bytes: int = 0
    least: int | None = None
    truncated: bool = False
    learnable: bool = False
    comparable: bool = False
    refusal: str | None = None
    fix: str = ""

    def cut_to(self, limit: int) -> RowTokens:
        """The same row where it is cut to another number of tokens; `supervised` is not told then."""
        return msgspec.structs.replace(
            self,
            supervised=0,
            truncated=self.tokens > limit,
            learnable=self.least is not None and self.least <= limit,
            comparable=self.tokens <= limit and self.answer_bytes > 0,
        )


Answer = Trouble | Traits | PromptTokens | RowTokens


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What a child is asked: a model, the format of the rows that follow, and numbered prompts to be put to it. All of
    it may take `seconds` of CPU time; None: whatever it takes."""

    model: ModelInfo
    format: UsedFormat
    max_length: int
    prompts: dict[int, str] = {}
    seconds: int | None = None


def judged(
    order: Order, rows: Iterable[tuple[int, dict[str, Any]]], running: set[subprocess.Popen[bytes]] | None = None
) -> Iterator[Answer]:
    """What a model makes of prompts and rows (line, normalised row): its traits, then an answer for each, in order.

    Ends early after a Trouble, and after the first row that took too much time or memory, which says so. What the rows
    raise is raised here.
    running: holds the child while there is one, for somebody else to kill it.
    """
    waiting: deque[int] = deque()  # the lines of rows that were not answered yet
    failed: list[BaseException] = []
    children = set() if running is None else running
    with tempfile.TemporaryFile() as log, child.running("oneseek.datasets.limited", log) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        children.add(process)
        feeder = threading.Thread(target=_feed, args=(process.stdin, order, rows, waiting, failed), daemon=True)
        feeder.start()
        answered = 0
        try:
            for said in process.stdout:
                answer = _answers.decode(said)
                answered += 1
                if isinstance(answer, RowTokens):
                    waiting.popleft()
                yield answer
            code = process.wait()
        finally:
            process.kill()
            feeder.join()
            children.discard(process)
        if failed:
            raise failed[0]
        if code:
            yield _ended(order, code, answered, waiting[0] if waiting else None, log)


def measured(
    model: ModelInfo,
    format: UsedFormat,  # noqa: A002
    rows: Iterable[tuple[int, dict[str, Any]]],
    max_length: int,
) -> Generator[RowTokens, None, None]:
    """The tokens of every row, in order.

    Raises:
        ModelError: the model cannot be used with any row.
    """
    for answer in judged(Order(model=model, format=format, max_length=max_length), rows):
        if isinstance(answer, Trouble):
            raise ModelError(answer.problem, answer.fix)
        if isinstance(answer, RowTokens):
            yield answer


def template_traits(model: ModelInfo) -> TemplateTraits | Trouble | None:
    """What the model's chat template does; None where it has none that is here."""
    if model.chat_template is None or model.source == "hub":
        return None
    answer = next(judged(Order(model=model, format="messages", max_length=_SHORTEST), ()), None)
    return answer.traits if isinstance(answer, Traits) else answer if isinstance(answer, Trouble) else None


def _feed(
    pipe: IO[bytes],
    order: Order,
    rows: Iterable[tuple[int, dict[str, Any]]],
    waiting: deque[int],
    failed: list[BaseException],
) -> None:
    """Write everything to the child. A broken pipe: it has ended, which the end of its output says."""
    with suppress(BrokenPipeError), pipe:
        try:
            pipe.write(msgspec.json.encode(order) + b"\n")
            for line, row in rows:
                waiting.append(line)
                pipe.write(msgspec.json.encode((line, row)) + b"\n")
        except BrokenPipeError:
            raise
        except BaseException as error:  # noqa: BLE001  the rows' own, which belongs to who asked
            failed.append(error)


def _ended(order: Order, code: int, answered: int, line: int | None, log: IO[bytes]) -> Answer:
    """What came after so many answers (the traits, the prompts, the rows) ended the child, which was to answer `line`
    next."""
    if code == -child.TIME_LIMIT_SIGNAL:
        what = "is not loaded and tried in time" if answered == 0 else f"runs longer than {SECONDS:g} s"
        problem, fix = f"The chat template {what}.", MEND
    elif code == -signal.SIGXCPU:
        problem, fix = f"The chat template takes more than {order.seconds} s for all rows.", MEND
    else:
        log.seek(0)
        words = log.read().decode(errors="replace").strip().splitlines()[-1:]
        why = ": ".join([signal.Signals(-code).name if code < 0 else f"exit code {code}", *words])
        problem, fix = f"The process that renders its rows ended ({why}).", _NO_MEMORY.fix
    if 0 < answered <= len(order.prompts):
        return PromptTokens(number=list(order.prompts)[answered - 1], refusal=problem)
    if answered == 0 or line is None:
        return Trouble(f"{order.model.display_name}: {problem}", fix)
    return RowTokens(line=line, refusal=problem, fix=fix)


MEND = "Mend the base model's chat template, or select another base model."
"""The fix where it took too long: that happens again."""
_NO_MEMORY = Trouble(
    f"The chat template needs more than {MEMORY // 2**30} GiB of memory.",
    "Mend the chat template, or select another base model.",
)


# -- the child -----------------------------------------------------------------------------------------------------


def main() -> None:
    messages = child.begin()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it: there is nothing to finish
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_LAST_WORDS, _LAST_WORDS))  # nothing here writes to any other file
    order = msgspec.json.decode(sys.stdin.buffer.readline(), type=Order)
    if order.seconds is not None:
        resource.setrlimit(resource.RLIMIT_CPU, (order.seconds, order.seconds + 1))
    try:
        encoder, traits = _loaded(order)
    except (ModelError, MemoryError) as error:
        known = error if isinstance(error, ModelError) else ModelError(_NO_MEMORY.problem, _NO_MEMORY.fix)
        _say(messages, Trouble(f"{order.model.display_name}: {known.problem}", known.fix))
        return
    _say(messages, Traits(traits))
    for number, prompt in order.prompts.items():
        _say(messages, _prompt(encoder, number, prompt))
    limit = min(order.max_length, order.model.context_length or order.max_length)
    for said in sys.stdin.buffer:
        line, row = msgspec.json.decode(said, type=tuple[int, dict[str, Any]])
        _say(messages, _row(encoder, line, row, limit))


def _loaded(order: Order) -> tuple[Encoder, TemplateTraits | None]:
    """An encoder that cuts nothing, and what its template does."""
    if STRATEGY_OF[order.format] == "chat" and order.model.chat_template is not None:
        with child.cpu_limit(SECONDS):
            # Jinja computes what is constant while it compiles. A tokenizer may take longer to load than this.
            ChatTemplate(order.model.chat_template, order.model.special_tokens)
    with child.cpu_limit(_LOADING_SECONDS):
        encoder = replace(encoder_of(order.model, order.format, _UNCUT), max_length=_UNCUT)
    with child.cpu_limit(SECONDS):
        return encoder, probe(encoder.template) if encoder.template is not None else None


def _prompt(encoder: Encoder, number: int, prompt: str) -> PromptTokens:
    try:
        if encoder.template is None:
            return PromptTokens(number=number, tokens=len(encoder.tokenizer.encode(prompt).ids))
        text = _asked(encoder.template, prompt)
        return PromptTokens(number=number, tokens=len(encoder.tokenizer.encode(text, add_special_tokens=False).ids))
    except (DatasetError, ModelError) as error:
        return PromptTokens(number=number, refusal=error.problem)
    except MemoryError:
        return PromptTokens(number=number, refusal=_NO_MEMORY.problem)


def _asked(template: ChatTemplate, prompt: str) -> str:
    with child.cpu_limit(SECONDS):
        return template.render([{"role": "user", "content": prompt}], add_generation_prompt=True)


def _row(encoder: Encoder, line: int, row: dict[str, Any], limit: int) -> RowTokens:
    try:
        with child.cpu_limit(SECONDS):
            texts = encoder.render(row)
        examples = encoder.encode_texts(texts)
    except (DatasetError, ModelError) as error:
        return RowTokens(line=line, refusal=error.problem, fix=error.fix)
    except MemoryError:
        return RowTokens(line=line, refusal=_NO_MEMORY.problem, fix=_NO_MEMORY.fix)
    supervised = [_supervised(example, limit) for example in examples]
    tokens = max(len(example.input_ids) for example in examples)
    answer_bytes = min(example.answer_bytes for example in examples)
    whole = RowTokens(line=line, tokens=tokens, answer_bytes=answer_bytes, least=_least(examples))
    return msgspec.structs.replace(whole.cut_to(limit), supervised=sum(supervised))


def _least(examples: Sequence[Example]) -> int | None:
    """The fewest tokens of which each example has a learned one, and which tell the answers of a pair apart: where
    nothing does, there is nothing to prefer. None where no number of them is enough."""
    learned = [np.flatnonzero(example.labels != IGNORED) for example in examples]
    if not all(map(len, learned)):
        return None
    least = max(int(places[0]) for places in learned) + 1
    if len(examples) == 1:
        return least
    one, other = (example.input_ids for example in examples)
    both = min(len(one), len(other))
    differing = np.flatnonzero(one[:both] != other[:both])
    if not len(differing) and len(one) == len(other):
        return None
    return max(least, int(differing[0]) + 1 if len(differing) else both + 1)


def _supervised(example: Example, limit: int) -> int:
    return int((example.labels[:limit] != IGNORED).sum())


def _say(messages: BinaryIO, answer: Answer) -> None:
    messages.write(msgspec.json.encode(answer) + b"\n")


_answers: msgspec.json.Decoder[Answer] = msgspec.json.Decoder(Answer)


if __name__ == "__main__":
    main()
