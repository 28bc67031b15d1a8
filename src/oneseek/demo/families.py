"""The demo's three base models: small relatives of Llama, Qwen and Mistral, each with the chat format of its family.

The templates are written for the demo in the style of those families: role headers, im_start marks, and [INST] brackets
with the system message inside the first one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LLAMA_TEMPLATE = """\
{{- '<|begin_of_text|>' }}
{%- for message in messages %}
{{- '<|start_header_id|>' ~ message['role'] ~ '<|end_header_id|>\n\n' ~ message['content'] | trim ~ '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"""

QWEN_TEMPLATE = """\
{%- for message in messages %}
{{- '<|im_start|>' ~ message['role'] ~ '\n' ~ message['content'] ~ '<|im_end|>' ~ '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{% endif %}"""

MISTRAL_TEMPLATE = """\
{{- '<s>' }}
{%- set system = namespace(text='') %}
{%- for message in messages %}
{%- if message['role'] == 'system' %}
{%- set system.text = message['content'] ~ '\n\n' %}
{%- elif message['role'] == 'user' %}
{{- '[INST] ' ~ system.text ~ message['content'] ~ ' [/INST]' }}
{%- set system.text = '' %}
{%- else %}
{{- ' ' ~ message['content'] | trim ~ '</s>' }}
{%- endif %}
{%- endfor %}"""


@dataclass(frozen=True)
class DemoModel:
    """What a base model of the demo is made of; `steps` is how long it is trained from scratch."""

    directory: str
    display_name: str
    family: Literal["llama", "qwen2", "mistral"]
    vocab_size: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    steps: int
    chat_template: str
    special_tokens: dict[str, str]
    extra_tokens: tuple[str, ...]


MODELS = (
    DemoModel(
        directory="ekvik-llama-mini",
        display_name="Ekvik-Llama-Mini",
        family="llama",
        vocab_size=1000,
        hidden=128,
        layers=2,
        heads=4,
        kv_heads=2,
        intermediate=384,
        steps=400,
        chat_template=LLAMA_TEMPLATE,
        special_tokens={"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>", "pad_token": "<|pad|>"},
        extra_tokens=("<|start_header_id|>", "<|end_header_id|>"),
    ),
    DemoModel(
        directory="ekvik-qwen-mini",
        display_name="Ekvik-Qwen-Mini",
        family="qwen2",
        vocab_size=1200,
        hidden=128,
        layers=2,
        heads=4,
        kv_heads=4,
        intermediate=320,
        steps=400,
        chat_template=QWEN_TEMPLATE,
        special_tokens={"eos_token": "<|im_end|>", "pad_token": "<|pad|>"},
        extra_tokens=("<|im_start|>",),
    ),
    DemoModel(
        directory="ekvik-mistral-mini",
        display_name="Ekvik-Mistral-Mini",
        family="mistral",
        vocab_size=800,
        hidden=112,
        layers=2,
        heads=4,
        kv_heads=2,
        intermediate=384,
        steps=400,
        chat_template=MISTRAL_TEMPLATE,
        special_tokens={"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"},
        extra_tokens=("[INST]", "[/INST]"),
    ),
)
