"""What a model says: equal to what transformers and PEFT make of it, whole characters at a time, without a trace."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoTokenizer

from oneseek.chat.template import ChatTemplate
from oneseek.datasets.tokens import Encoder, load_tokenizer
from oneseek.engine.create import create
from oneseek.engine.forward import PACKED
from oneseek.engine.generation import Sampling, Speaker, _Writer, answer, answers, load_with_adapter, speaker_for
from oneseek.engine.lora import adapter_config, adapter_parameters, adapter_state, attach, disabled
from oneseek.errors import WorkerFailed
from support.tiny_models import SPECIAL_TOKENS, TARGETS, Family, assignment, chat_rows, write_model, write_rows

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),  # PEFT calls it
]

FAMILIES: tuple[Family, ...] = ("llama", "gpt2")
PROMPT = "When is biblioteket open?"


@pytest.fixture(scope="module", params=FAMILIES)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Family]:
    """A base model on disk."""
    return write_model(tmp_path_factory.mktemp("models") / request.param, request.param), request.param


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture(scope="module")
def adapter(tiny: tuple[Path, Family], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of the base model in PEFT's format, whose B is not zero."""
    path, family = tiny
    model = load(path)
    attach(model, TARGETS[family], 4, 8.0, 0.0, rslora=True)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in adapter_parameters(model).values():
            parameter.normal_(std=0.3)
    directory = tmp_path_factory.mktemp("adapter")
    config = adapter_config(model, str(path), TARGETS[family], 4, 8.0, 0.0, rslora=True)
    (directory / "adapter_config.json").write_text(json.dumps(config))
    safetensors.torch.save_file(
        adapter_state(model), directory / "adapter_model.safetensors", metadata={"format": "pt"}
    )
    return directory


def load(path: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(path).eval()


def adapted(path: Path, family: Family, adapter: Path) -> Any:
    return load_with_adapter(
        path,
        adapter / "adapter_model.safetensors",
        TARGETS[family],
        4,
        8.0,
        rslora=True,
        dtype="float32",
        quantization=None,
    )


def generated(model: Any, path: Path, tokens: int) -> str:
    """The answer as transformers' own classes make it."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    messages = [{"role": "user", "content": PROMPT}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")["input_ids"]
    ids = model.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=tokens)
    text: str = tokenizer.decode(ids[0, prompt.shape[1] :], skip_special_tokens=True)
    return text


def test_the_base_model_answers_as_transformers_generates(tiny: tuple[Path, Family], adapter: Path) -> None:
    path, family = tiny
    speaker = speaker_for(path, "chat")
    model = adapted(path, family, adapter)

    with disabled(model):
        said = answer(model, speaker, speaker.encode(PROMPT), Sampling(40))

    assert said.text == generated(load(path), path, 40)
    assert (said.finish_reason, said.tokens) == ("length", 40)


def test_the_adapter_answers_as_peft_loads_it(tiny: tuple[Path, Family], adapter: Path) -> None:
    path, family = tiny
    speaker = speaker_for(path, "chat")

    said = answer(adapted(path, family, adapter), speaker, speaker.encode(PROMPT), Sampling(40))

    assert said.text == generated(PeftModel.from_pretrained(load(path), adapter), path, 40)
    assert said.text != generated(load(path), path, 40)


def test_what_is_streamed_is_the_answer_piece_by_piece(llama: Path) -> None:
    pieces: list[str] = []
    speaker = speaker_for(llama, "chat")

    said = answer(load(llama), speaker, speaker.encode(PROMPT), Sampling(40), pieces.append)

    assert "".join(pieces) == said.text
    assert len(pieces) > 10


def test_an_answer_stops_at_an_end_token_which_is_not_said(llama: Path) -> None:
    speaker = speaker_for(llama, "chat")
    prompt = speaker.encode(PROMPT)
    ids = torch.tensor([prompt])
    whole = load(llama).generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=40)
    written = whole[0, len(prompt) :].tolist()
    place = next(n for n, token in enumerate(written) if n > 3 and token not in written[:n])

    said = answer(load(llama), replace(speaker, ends=frozenset({written[place]})), prompt, Sampling(40))

    assert said.finish_reason == "stop"
    assert said.tokens == place + 1
    assert said.text == speaker.tokenizer.decode(written[:place], skip_special_tokens=True)


def test_the_end_tokens_of_the_models_own_generation_config_count_too(llama: Path) -> None:
    speaker = replace(speaker_for(llama, "chat"), ends=frozenset())
    model = load(llama)
    prompt = speaker.encode(PROMPT)
    first = int(model(torch.tensor([prompt])).logits[0, -1].argmax())
    model.generation_config.eos_token_id = [first, 1]

    said = answer(model, speaker, prompt, Sampling(40))

    assert (said.text, said.finish_reason, said.tokens) == ("", "stop", 1)


def test_an_answer_ends_where_the_template_ends_a_turn(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model", "llama")
    tokenizer = load_tokenizer(path)
    tokenizer.add_special_tokens([AddedToken("<|im_end|>", special=True)])
    tokenizer.save(str(path / "tokenizer.json"))
    settings = json.loads((path / "tokenizer_config.json").read_text())
    settings["chat_template"] = "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] }}<|im_end|>\n{% endfor %}"
    (path / "tokenizer_config.json").write_text(json.dumps(settings))

    speaker = speaker_for(path, "chat")

    assert {tokenizer.id_to_token(token) for token in speaker.ends} == {"<|im_end|>", SPECIAL_TOKENS["eos_token"]}


def test_a_drawn_answer_follows_from_its_seed(llama: Path) -> None:
    speaker = speaker_for(llama, "chat")
    model, prompt = load(llama), speaker.encode(PROMPT)

    said = [answer(model, speaker, prompt, Sampling(20, 1.0, 0.9, seed)).text for seed in (1, 1, 2)]

    assert said[0] == said[1] != said[2]


def test_an_answer_ends_with_the_models_context(llama: Path) -> None:
    speaker = speaker_for(llama, "chat")
    prompt = speaker.encode(PROMPT)
    short = replace(speaker, context_length=len(prompt) + 3)

    assert answer(load(llama), short, prompt, Sampling(40)).tokens == 3


# -- prompts -------------------------------------------------------------------------------------------------------


def test_a_system_message_stands_before_the_prompt(llama: Path) -> None:
    speaker = speaker_for(llama, "chat")

    text = speaker.tokenizer.decode(speaker.encode("Open?", "Be brief."), skip_special_tokens=False)

    assert text == "<s>[system] Be brief.</s>\n[user] Open?</s>\n[assistant] "


@pytest.mark.parametrize("bos_by_tokenizer", [True, False])
def test_plain_text_begins_as_it_does_in_training(llama: Path, bos_by_tokenizer: bool) -> None:
    speaker = speaker_for(llama, "standard")
    if not bos_by_tokenizer:
        speaker.tokenizer.post_processor = None
    encoder = Encoder(speaker.tokenizer, None, speaker.special_tokens, "prompt_completion", 100)

    learned = encoder.encode({"prompt": PROMPT, "completion": " 8-16"})[0].input_ids

    asked = speaker.encode(PROMPT)
    assert asked == tuple(learned)[: len(asked)]
    assert asked[0] == speaker.tokenizer.token_to_id("<s>")


def test_an_eos_that_the_tokenizer_puts_after_text_is_not_asked(llama: Path) -> None:
    speaker = speaker_for(llama, "standard")
    ids = [(token, speaker.tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
    speaker.tokenizer.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=ids)

    assert speaker.encode("Hi")[-1] != ids[1][1]
    assert speaker.encode("") == (ids[0][1],)


def refusal(speaker: Speaker, prompt: str, system: str | None = None) -> WorkerFailed:
    with pytest.raises(WorkerFailed) as refused:
        speaker.encode(prompt, system)
    assert refused.value.kind == "refused"
    assert refused.value.fix
    return refused.value


def test_a_prompt_that_fills_the_context_is_refused(llama: Path) -> None:
    refused = refusal(speaker_for(llama, "chat"), "open? " * 300)

    assert "reads 256" in refused.problem


def test_a_template_that_takes_no_system_message_is_named(llama: Path) -> None:
    template = ChatTemplate(
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}", {}
    )

    refused = refusal(replace(speaker_for(llama, "chat"), template=template), "Hi", "Be brief.")

    assert "no system role" in refused.problem
    assert "without a system message" in refused.fix


def test_an_empty_prompt_of_a_tokenizer_that_adds_nothing_is_refused(llama: Path) -> None:
    speaker = replace(speaker_for(llama, "standard"), special_tokens={})
    speaker.tokenizer.post_processor = None

    refusal(speaker, "")


def test_chat_without_a_template_is_refused(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model", "llama")
    (path / "tokenizer_config.json").write_text(json.dumps(SPECIAL_TOKENS))

    with pytest.raises(WorkerFailed, match="has no chat template"):
        speaker_for(path, "chat")


def test_a_token_without_an_embedding_is_refused(llama: Path) -> None:
    with pytest.raises(WorkerFailed, match="Token 5000"):
        answer(load(llama), speaker_for(llama, "chat"), (1, 5000), Sampling(2))


# -- in the middle of a training -----------------------------------------------------------------------------------


def trace(model: Any) -> tuple[Any, ...]:
    """Everything that answering might change."""
    return (
        [module.training for module in model.modules()],
        [parameter.requires_grad for parameter in model.parameters()],
        model.config._attn_implementation,
        model.config.to_dict(),
        model.generation_config.to_dict(),
        torch.get_rng_state().tolist(),
    )


@pytest.mark.parametrize("attention", [PACKED, "eager"])
def test_a_model_in_training_answers_without_a_trace(tiny: tuple[Path, Family], attention: str) -> None:
    path, family = tiny
    model = load(path)
    attach(model, TARGETS[family], 4, 8.0, 0.5)
    model.activation_checkpointing_enable({"use_reentrant": False})
    model.train()
    next(model.children()).eval()
    model.set_attn_implementation(attention)
    before = trace(model)

    said = answers(model, speaker_for(path, "chat"), [PROMPT, "And?"], 20)

    assert trace(model) == before
    assert said[0] == generated(load(path), path, 20)  # LoRA B is still zero


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_training_goes_on_to_the_same_bits_where_prompts_are_answered(
    llama: Path, tmp_path: Path, dropout: float
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", chat_rows(10))
    checkpoints, samples = [], []
    for prompts in ((), (PROMPT, "And?")):
        trainer = create(
            assignment(llama, rows, tmp_path / str(len(prompts)), lora_dropout=dropout, sample_prompts=prompts)
        )
        trainer.prepare()
        results = [trainer.train_epoch(epoch, [1e-3] * epoch, (), lambda message: None) for epoch in (1, 2)]
        checkpoints.append([(result.checkpoint, result.val_loss) for result in results])
        samples.append([len(result.samples) for result in results])

    assert checkpoints[0] == checkpoints[1]
    assert samples == [[0, 0], [2, 2]]


# -- whole characters ----------------------------------------------------------------------------------------------


def byte_level() -> Tokenizer:
    """One token for each byte, as GPT-2 spells them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: n for n, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def byte_fallback() -> Tokenizer:
    """As Llama 2 spells: a mark for each space, bytes for letters that it does not know."""
    tokens = [*(f"<0x{n:02X}>" for n in range(256)), "▁", *"abcdefgh", "▁a", "▁b"]
    tokenizer = Tokenizer(models.BPE(vocab={t: n for n, t in enumerate(tokens)}, merges=[], byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


TOKENIZERS = {"byte-level": byte_level(), "byte-fallback": byte_fallback()}


def pieces_of(tokenizer: Tokenizer, tokens: list[int]) -> list[str]:
    pieces: list[str] = []
    writer = _Writer(tokenizer, frozenset(), pieces.append)
    for token in [0, *tokens]:  # the prompt comes first
        writer.put(torch.tensor([token]))
    writer.end()
    return pieces


@given(tokens=st.lists(st.integers(0, 255), max_size=12))
def test_pieces_of_any_bytes_join_to_their_text(tokens: list[int]) -> None:
    tokenizer = TOKENIZERS["byte-level"]

    assert "".join(pieces_of(tokenizer, tokens)) == tokenizer.decode(tokens)


@pytest.mark.parametrize("name", TOKENIZERS)
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd\u2581"), max_size=12))
def test_no_piece_ends_in_the_middle_of_a_character(name: str, text: str) -> None:
    tokenizer = TOKENIZERS[name]
    tokens = tokenizer.encode(text).ids

    pieces = pieces_of(tokenizer, tokens)

    assert "".join(pieces) == tokenizer.decode(tokens) == text
    assert all(pieces)


def test_half_a_character_at_the_end_is_shown_as_such() -> None:
    half = TOKENIZERS["byte-level"].encode("aå").ids[:-1]

    assert pieces_of(TOKENIZERS["byte-level"], half) == ["a", "\ufffd"]
