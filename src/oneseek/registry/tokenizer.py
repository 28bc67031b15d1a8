"""What a base model's tokenizer files say: its chat template and its special tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from oneseek.registry.model_files import ModelFiles, ModelProblem, json_object, object_or_none, text_or_none


def chat_template(contents: Mapping[str, bytes]) -> str | None:
    """The chat template that applies: chat_template.jinja, else tokenizer_config.json, else chat_template.json.

    contents: file name to bytes. A list of templates counts by the one that is named `default`.
    """
    if "chat_template.jinja" in contents:
        jinja = contents["chat_template.jinja"].decode(errors="replace")
        return jinja if jinja.strip() else None
    for name in ("tokenizer_config.json", "chat_template.json"):
        template = object_or_none(contents.get(name, b"")) or {}
        chosen = template.get("chat_template")
        if isinstance(chosen, list):
            named = (item for item in chosen if isinstance(item, dict) and item.get("name") == "default")
            chosen = next(named, {}).get("template")
        if (text := text_or_none(chosen)) and text.strip():
            return text
    return None


def special_tokens(files: ModelFiles, problems: list[ModelProblem]) -> dict[str, str]:
    """The special tokens by the names that templates use (`eos_token`): tokenizer_config.json goes before
    special_tokens_map.json, and both before the ids in config.json and generation_config.json."""
    tokenizer = json_object(files, "tokenizer_config.json", "broken-tokenizer", problems)
    token_map = json_object(files, "special_tokens_map.json", "broken-tokenizer", problems)
    return {
        **_tokens_by_id(files.contents, files.token_texts),
        **_token_texts(token_map),
        **_token_texts(tokenizer),
    }


def token_ids_wanted(contents: Mapping[str, bytes]) -> dict[str, int]:
    """`eos_token` and `bos_token` by their ids, where only config.json or generation_config.json names them.

    A tokenizer file that says null says that there is none. contents: file name to bytes.
    """
    documents = {name: object_or_none(contents.get(f"{name}.json", b"")) or {} for name in _NAMING_TOKENS}
    said = documents["tokenizer_config"].keys() | documents["special_tokens_map"].keys()
    wanted = {}
    for token in ("eos_token", "bos_token"):
        given = (documents[name].get(f"{token}_id") for name in ("config", "generation_config"))
        ids = (value[0] if isinstance(value, list) and value else value for value in given)
        first = next((value for value in ids if type(value) is int), None)
        if token not in said and first is not None:
            wanted[token] = first
    return wanted


_NAMING_TOKENS = ("config", "generation_config", "tokenizer_config", "special_tokens_map")


def _tokens_by_id(contents: Mapping[str, bytes], texts: Mapping[int, str]) -> dict[str, str]:
    wanted = token_ids_wanted(contents)
    return {token: texts[number] for token, number in wanted.items() if texts.get(number)}


def _token_texts(document: Mapping[str, Any]) -> dict[str, str]:
    """Every `…_token` with its text; a token is written as text or as an object with `content`."""
    texts = {}
    for name, value in document.items():
        text = text_or_none(value.get("content") if isinstance(value, dict) else value)
        if name.endswith("_token") and text:
            texts[name] = text
    return texts


def check_tokenizer(files: ModelFiles, problems: list[ModelProblem]) -> None:
    """tokenizer.json must be there: nothing else is loaded as a tokenizer."""
    if files.sizes.get("tokenizer.json", 0) > 0:
        return
    slow = sorted({"tokenizer.model", "vocab.json", "merges.txt", "spiece.model"}.intersection(files.sizes))
    problems.append(
        ModelProblem(
            kind="no-tokenizer",
            problem=("tokenizer.json is empty." if "tokenizer.json" in files.sizes else "There is no tokenizer.json.")
            + (f" {slow[0]} alone is not enough." if slow else ""),
            fix="Copy the model's tokenizer.json into the directory"
            + (
                ", or make it: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR) in transformers."
                if slow
                else "."
            ),
        )
    )
