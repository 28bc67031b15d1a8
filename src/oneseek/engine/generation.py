"""Asking a model: a prompt in, the answer's text out while it is written."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from tokenizers import Encoding, Tokenizer
from torch import Tensor
from transformers.generation.streamers import BaseStreamer

from oneseek.chat.template import ChatTemplate
from oneseek.engine.base_model import load_base_model
from oneseek.engine.examples import load_tokenizer
from oneseek.engine.lora import attach, load_adapter_state
from oneseek.engine.out_of_memory import is_out_of_memory
from oneseek.errors import DatasetError, ModelError, WorkerFailed
from oneseek.registry.discover import describe

_HALF = "\ufffd"  # what bytes that are no whole character are decoded to
_MARK = "oneseek"  # stands for an answer where a template shows how it ends one


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. `temperature` 0 takes the likeliest each time. Above it, logits are divided by it and a
    token is drawn from the likeliest ones that together have the probability `top_p` (Holtzman et al. 2019,
    arXiv:1904.09751), from `seed` on: the same for each answer, whatever was asked before."""

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Answer:
    """`tokens` were written in `seconds`, the last of them being the one that ended it where it did "stop"."""

    text: str
    finish_reason: Literal["stop", "length"]
    tokens: int
    seconds: float


@dataclass(frozen=True)
class Speaker:
    """How a model is spoken to: through its chat template, or (`template` None) in plain text.

    `ends` are the tokens that end an answer. `context_length`, in tokens, is None where the model states none.
    """

    name: str
    tokenizer: Tokenizer
    template: ChatTemplate | None
    special_tokens: Mapping[str, str]
    ends: frozenset[int]
    context_length: int | None

    def encode(self, prompt: str, system: str | None = None) -> tuple[int, ...]:
        """A prompt as the model meets it in training, up to where its answer begins.

        system: what is said before it; only with a chat template.

        Raises:
            WorkerFailed: the template does not take it, it is empty, or it leaves no room for an answer.
        """
        ids = self._plain(prompt) if self.template is None else self._chat(self.template, prompt, system)
        if not ids:
            raise WorkerFailed("refused", f"There is nothing in a prompt for {self.name} to go on from.", _ASK)
        if self.context_length and len(ids) >= self.context_length:
            raise WorkerFailed(
                "refused",
                f"A prompt has {len(ids)} tokens; {self.name} reads {self.context_length} and must answer in them.",
                "Ask something shorter.",
            )
        return ids

    def _chat(self, template: ChatTemplate, prompt: str, system: str | None) -> tuple[int, ...]:
        said = [{"role": "system", "content": system}] if system is not None else []
        messages = [*said, {"role": "user", "content": prompt}]
        try:
            text = template.render(messages, add_generation_prompt=True)
        except (DatasetError, ModelError) as error:
            fix = "Ask without a system message, or select another model." if said else "Select another model."
            raise WorkerFailed("refused", f"{self.name}: {error.problem}", fix) from error
        return tuple(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def _plain(self, prompt: str) -> tuple[int, ...]:
        """As plain text is learned, but for an EOS that the tokenizer may put after it."""
        encoding = self.tokenizer.encode(prompt)
        added = encoding.special_tokens_mask
        end = len(added)
        while end > 1 and added[end - 1]:
            end -= 1
        return (*self._leading(encoding), *encoding.ids[:end])

    def _leading(self, encoding: Encoding) -> tuple[int, ...]:
        """BOS, else EOS, where the tokenizer itself puts nothing before the text."""
        if encoding.special_tokens_mask[:1] == [1]:
            return ()
        names = (self.special_tokens.get(name) for name in ("bos_token", "eos_token"))
        found = (self.tokenizer.token_to_id(name) for name in names if name)
        return next(((token,) for token in found if token is not None), ())


_ASK = "Write a prompt of at least one letter."


def speaker_for(model_path: Path, strategy: Literal["chat", "standard"]) -> Speaker:
    """How the model of a directory is spoken to.

    Raises:
        WorkerFailed: it has no tokenizer.json, or no chat template where one is needed.
    """
    info = describe(model_path)
    tokenizer = load_tokenizer(model_path)
    template = None
    if strategy == "chat":
        if info.chat_template is None:
            raise WorkerFailed("refused", f"{info.display_name} has no chat template.", "Select a model that has one.")
        template = ChatTemplate(info.chat_template, info.special_tokens)
    eos = tokenizer.token_to_id(info.special_tokens.get("eos_token", ""))
    end_of_turn = _end_of_turn(template, tokenizer) if template else None
    return Speaker(
        name=info.display_name,
        tokenizer=tokenizer,
        template=template,
        special_tokens=info.special_tokens,
        ends=frozenset(token for token in (eos, end_of_turn) if token is not None),
        context_length=info.context_length,
    )


def load_with_adapter(
    model_path: Path,
    adapter: Path,
    target_modules: Sequence[str],
    r: int,
    alpha: float,
    *,
    rslora: bool,
    dtype: str,
    quantization: Literal["4bit", "8bit"] | None,
) -> Any:
    """The base model of a directory with a trained adapter in it, ready to answer, on this machine's GPU if it has one.

    adapter: its safetensors file. dtype: torch's name of the type in which the base model computes.

    Raises:
        WorkerFailed: model or adapter can't be loaded, they do not fit each other, or memory ran out.
    """
    with _memory_named():
        model = load_base_model(model_path, getattr(torch, dtype), quantization)
        attach(model, target_modules, r, alpha, dropout=0.0, rslora=rslora)
        load_adapter_state(model, safetensors.torch.load_file(adapter))
        return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def answer(
    model: Any,
    speaker: Speaker,
    prompt: Sequence[int],
    sampling: Sampling,
    report: Callable[[str], None] = lambda piece: None,
) -> Answer:
    """What a transformers causal language model says after a prompt; it must be in evaluation mode.

    prompt: token ids, at least one.
    report: called with each piece of text as soon as it is certain; never with half a character. The pieces together
        are the answer's text.

    Raises:
        WorkerFailed: the model has no embedding for a token of the prompt, or memory ran out.
    """
    _require_known(model, speaker, prompt)
    ends = sorted(speaker.ends | _named_by(model))
    room = speaker.context_length - len(prompt) if speaker.context_length else sampling.max_new_tokens
    drawn = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0} if sampling.temperature else {}
    ids = torch.tensor([prompt], device=model.device)
    writer = _Writer(speaker.tokenizer, frozenset(ends), report)
    torch.manual_seed(sampling.seed)
    began = time.perf_counter()
    with _memory_named():
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=min(sampling.max_new_tokens, room),
            do_sample=bool(drawn),
            num_beams=1,
            use_cache=True,
            eos_token_id=ends or None,
            pad_token_id=ends[0] if ends else 0,  # nothing is padded: answers are written one at a time
            streamer=writer,
            **drawn,
        )
    return writer.answer(time.perf_counter() - began)


def answers(model: Any, speaker: Speaker, prompts: Sequence[str], max_new_tokens: int) -> tuple[str, ...]:
    """What a model in training says to each prompt, by its likeliest tokens. It leaves no trace in the training.

    Raises:
        WorkerFailed: as `Speaker.encode` and `answer`.
    """
    with speaking(model):
        sampling = Sampling(max_new_tokens)
        return tuple(answer(model, speaker, speaker.encode(prompt), sampling).text for prompt in prompts)


@contextmanager
def speaking(model: Any) -> Iterator[None]:
    """Inside, a model is in evaluation mode, under the attention that transformers chooses for it: one made for rows
    of a training knows no cache. Afterwards all is as it was, and so are torch's random generators."""
    training = {module: module.training for module in model.modules()}
    attention = model.config._attn_implementation
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        model.eval()
        model.set_attn_implementation(None)  # transformers' own choice
        try:
            yield
        finally:
            model.set_attn_implementation(attention)
            for module, mode in training.items():
                module.training = mode


class _Writer(BaseStreamer):  # type: ignore[misc]  # transformers carries no types
    """Makes text of an answer's tokens as they come.

    A token may end in the middle of a character, and some decoders write a token otherwise at a text's beginning. So
    the tokens since the last piece are decoded together with those of the piece before it.
    """

    def __init__(self, tokenizer: Tokenizer, ends: frozenset[int], report: Callable[[str], None]) -> None:
        self._tokenizer = tokenizer
        self._ends = ends
        self._report = report
        self._prompt_is_to_come = True
        self._ended = False
        self._tokens: list[int] = []
        self._last = self._written = 0  # how many tokens there were before the last piece, and with it
        self._pieces: list[str] = []

    def put(self, value: Tensor) -> None:
        """transformers gives the prompt first, then each token."""
        if self._prompt_is_to_come:
            self._prompt_is_to_come = False
            return
        token = int(value)
        if token in self._ends:
            self._ended = True
            return
        self._tokens.append(token)
        self._write(half_too=False)

    def end(self) -> None:
        self._write(half_too=True)

    def answer(self, seconds: float) -> Answer:
        reason: Literal["stop", "length"] = "stop" if self._ended else "length"
        return Answer("".join(self._pieces), reason, len(self._tokens) + self._ended, seconds)

    def _write(self, *, half_too: bool) -> None:
        """Report what is new, unless it ends in what may be half a character."""
        before = self._decode(self._tokens[self._last : self._written])
        text = self._decode(self._tokens[self._last :])
        if len(text) > len(before) and (half_too or not text.endswith(_HALF)):
            self._last, self._written = self._written, len(self._tokens)
            self._pieces.append(text[len(before) :])
            self._report(self._pieces[-1])

    def _decode(self, tokens: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return text


@contextmanager
def _memory_named() -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        fix = "Allow shorter answers, or close what else needs memory."
        raise WorkerFailed("out_of_memory", "There is not enough memory to answer.", fix) from error


def _end_of_turn(template: ChatTemplate, tokenizer: Tokenizer) -> int | None:
    """The special token that a template writes after an answer, which is not always the tokenizer's EOS."""
    try:
        text = template.render([{"role": "user", "content": "?"}, {"role": "assistant", "content": _MARK}])
    except (DatasetError, ModelError):
        return None  # one that takes no such conversation; what it does take, it is asked with
    if _MARK not in text:
        return None
    after = text.rpartition(_MARK)[2]
    special = {token for token, added in tokenizer.get_added_tokens_decoder().items() if added.special}
    return next((token for token in tokenizer.encode(after, add_special_tokens=False).ids if token in special), None)


def _named_by(model: Any) -> set[int]:
    """The end tokens that the model's generation_config.json names besides."""
    named = model.generation_config.eos_token_id
    return set(named if isinstance(named, list) else [] if named is None else [named])


def _require_known(model: Any, speaker: Speaker, prompt: Sequence[int]) -> None:
    known = int(model.get_input_embeddings().weight.shape[0])
    unknown = next((token for token in prompt if token >= known), None)
    if unknown is not None:
        raise WorkerFailed(
            "refused",
            f"Token {unknown} ({speaker.tokenizer.id_to_token(unknown)!r}) of a prompt is none of the {known} tokens "
            f"that {speaker.name} has embeddings for.",
            "Copy the tokenizer.json and chat template that belong to the model's weights again.",
        )
