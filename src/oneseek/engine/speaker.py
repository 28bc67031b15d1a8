"""How a model is spoken to: from a prompt to the tokens before its answer. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tokenizers import Tokenizer

from oneseek.chat.template import ChatTemplate
from oneseek.datasets.tokens import leading_tokens, load_tokenizer
from oneseek.errors import DatasetError, ModelError, WorkerFailed
from oneseek.registry.discover import describe

_MARK = "oneseek"  # stands for an answer where a template shows how it ends one


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
        return (*leading_tokens(self.tokenizer, self.special_tokens, encoding), *encoding.ids[:end])


_ASK = "Write a prompt of at least one letter."


def speaker_for(model_path: Path, strategy: Literal["chat", "standard"]) -> Speaker:
    """How the model of a directory is spoken to.

    Raises:
        ModelError: it has no tokenizer.json that can be read.
        WorkerFailed: it has no chat template where one is needed.
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
