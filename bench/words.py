"""Rows and models made on the spot. A word is a token, so that the length of every row is known beforehand.

`python words.py DIRECTORY NAME SEED` writes the model of that shape, with random weights.
"""

from __future__ import annotations

import json
import math
import random
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from shapes import SIZES, SMALL, TINY, Shape

END, PAD, UNKNOWN = "<|end|>", "<|pad|>", "<|unknown|>"
SPECIAL = (END, PAD, UNKNOWN)
WORDS = (*SPECIAL, "system", "user", "assistant")
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} {{ message['content'] }} " + END + " {% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)
LONGEST, SHORTEST, MEDIAN, SPREAD, LEARNED = 507, 20, 151, 0.6, 0.4  # tokens; the shape of a chat dataset
FRAME = 2  # what is put before and after a row's own words: two END


def lengths(count: int, draw: random.Random) -> list[int]:
    """Lengths of rows in tokens, log-normal as those of chats are."""
    drawn = (round(draw.lognormvariate(math.log(MEDIAN), SPREAD)) for _ in range(count))
    return [min(max(length, SHORTEST), LONGEST) for length in drawn]


def completions(row_lengths: Iterable[int], draw: random.Random) -> list[dict[str, Any]]:
    """Rows of a prompt and a completion, of which the completion is learned."""
    rows = []
    for length in row_lengths:
        learned = round(LEARNED * length)
        rows.append({"prompt": _words(length - learned - FRAME, draw) + " ", "completion": _words(learned, draw)})
    return rows


def preferences(row_lengths: Iterable[int], draw: random.Random) -> list[dict[str, Any]]:
    """Rows of a prompt and two answers that are about as long."""
    return [
        {
            "prompt": row["prompt"],
            "chosen": row["completion"],
            "rejected": _words(max(1, round(len(row["completion"].split()) * draw.uniform(0.7, 1.3))), draw),
        }
        for row in completions(row_lengths, draw)
    ]


def chats(count: int, draw: random.Random) -> Iterable[dict[str, Any]]:
    """Short chats, about 170 bytes a row."""
    for number in range(count):
        question, answer = f"Question {number}: {_words(6, draw)}?", f"{_words(10, draw)}."
        yield {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    with path.open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def write_model(directory: Path, shape: Shape, seed: int) -> None:
    """A Llama with random weights and a tokenizer of whole words."""
    import torch
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        vocab_size=shape.vocabulary,
        max_position_embeddings=shape.context,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=1,
        initializer_range=0.05,  # at the usual 0.02 every logit is near zero, and no mistake would show in a loss
    )
    torch.manual_seed(seed)
    LlamaForCausalLM(config).save_pretrained(directory)
    vocabulary = {word: index for index, word in enumerate(_vocabulary(shape.vocabulary))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "pad_token": PAD, "unk_token": UNKNOWN}
    (directory / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": TEMPLATE}))


def _vocabulary(size: int) -> Sequence[str]:
    return [*WORDS, *(f"w{number}" for number in range(size - len(WORDS)))]


def _words(count: int, draw: random.Random) -> str:
    return " ".join(f"w{draw.randrange(TINY.vocabulary - len(WORDS))}" for _ in range(count))


if __name__ == "__main__":
    target, name, seed = sys.argv[1:]
    write_model(Path(target), next(shape for shape in (*SIZES, SMALL) if shape.name == name), int(seed))
