"""Every causal language model that transformers can make: what we say of its files against what happens.

Each architecture is made tiny and random, saved, described from its files alone, and then really loaded: PEFT puts
adapters on it, and our trainer trains it. `python bench/architectures.py` writes docs/architectures.md and
bench/results/architectures.json; with model types named it prints those, and writes nothing.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers import AutoConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))

from oneseek.engine.base_model import load_base_model  # noqa: E402
from oneseek.engine.export import adapter_path  # noqa: E402
from oneseek.engine.trainer import TorchTrainer  # noqa: E402
from oneseek.errors import WorkerFailed  # noqa: E402
from oneseek.registry.capabilities import ModelInfo, lora_targets  # noqa: E402
from oneseek.registry.coverage import coverage  # noqa: E402
from oneseek.registry.discover import describe  # noqa: E402
from support.tiny_models import assignment, write_rows, write_tokenizer  # noqa: E402

PAGE = HERE.parent / "docs" / "architectures.md"
RESULTS = HERE / "results" / "architectures.json"
SECONDS = 90
MEMORY = 16 * 2**30  # address space, of which little is used
MOST_PARAMETERS = 50_000_000
LAYERS = 4  # two of each kind, where layers take turns

# Settings by the names that configurations have for them, so small that a model is made in a second.
SMALL: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "embedding_size", "embedding_dim", "emb_dim"), 32),
    **dict.fromkeys(("input_embedding_size", "output_embedding_size", "attention_hidden_size", "lru_width"), 32),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "ffn_hidden_size", "encoder_ffn_dim", "decoder_ffn_dim"), 48),
    **dict.fromkeys(("d_inner", "dff", "dim_ff", "feed_forward_size", "shared_intermediate_size"), 48),
    **dict.fromkeys(("moe_intermediate_size", "expert_ffn_hidden_size", "moe_shared_expert_intermediate_size"), 48),
    **dict.fromkeys(("shared_expert_intermediate_size", "shared_experts_intermediate_size"), 48),
    **dict.fromkeys(("intermediate_size_mlp", "dense_intermediate_size"), 48),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers", "n_layers", "num_blocks"), LAYERS),
    **dict.fromkeys(("encoder_layers", "decoder_layers", "num_encoder_layers", "num_decoder_layers"), LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "num_heads", "n_heads", "attention_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads", "swa_num_attention_heads"), 4),
    **dict.fromkeys(("num_encoder_attention_heads", "num_decoder_attention_heads", "linear_num_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "swa_num_key_value_heads"), 2),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads", "index_n_heads"), 2),
    **dict.fromkeys(("head_dim", "swa_head_dim", "attention_head_size", "attention_head_dim", "kv_channels"), 8),
    **dict.fromkeys(("dim_head", "d_head", "linear_key_head_dim", "linear_value_head_dim", "linear_head_dim"), 8),
    **dict.fromkeys(("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "index_head_dim", "rotary_dim"), 8),
    **dict.fromkeys(("qk_head_dim", "q_lora_rank", "kv_lora_rank", "o_lora_rank", "word_embed_proj_dim"), 16),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "context_length"), 256),
    **dict.fromkeys(("max_target_positions", "model_max_length"), 256),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_topk"), 2),
    **dict.fromkeys(("n_group", "topk_group", "num_expert_group", "first_k_dense_replace"), 1),
    **dict.fromkeys(("state_size", "mamba_d_state", "ssm_state_size"), 8),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads"), 4),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim", "mamba_headdim"), 16),
    **dict.fromkeys(("sliding_window", "attention_window_size", "window_size", "sliding_window_size"), 16),
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": 320,
    "max_window_layers": 2,
    "attention_chunk_size": 16,
}

# What some need besides, or instead.
OWN: Mapping[str, Mapping[str, Any]] = {
    "blt": {"encoder_hash_byte_group_vocab": 500},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"head_dim": 16, "n_groups": 1},
    "ministral": {"head_dim": 8},
    "nemotron": {"head_dim": 8, "num_key_value_heads": 2},
    "nemotron_h": {"n_groups": 1},
    "reformer": {"axial_pos_embds_dim": (16, 16), "axial_pos_shape": (16, 16), "attn_layers": ["local", "lsh"] * 2},
    "xlm": {"causal": True},
    "zamba": {"num_hidden_layers": 12, "attention_hidden_size": 64, "attention_head_dim": 16},
    "zamba2": {
        "num_hidden_layers": 54,
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
        "mamba_headdim": 8,
    },
    "zaya": {"num_experts_per_tok": 1},
}


# Where what we say and what happens differ, and why. One that differs without a reason here ends the run in an error.
REASONS: Mapping[str, str] = {
    "bert-generation": "Refused by the name of its architecture, BertGenerationDecoder.",
    "blt": "It reads bytes by numbers of its own, which the tokens of a tokenizer.json are not.",
    "cpmant": "It reads a prefix both ways, which no file says. Refused when its training is prepared.",
    "deepseek_v4": "o_a_proj is computed in groups, which no file says, and cannot be adapted. Name the other modules.",
    **dict.fromkeys(
        ("gemma3", "gemma4", "gemma4_unified", "got_ocr2", "moss_transcribe_diarize"),
        "Refused by the name of its architecture, as it is made for more than text.",
    ),
    "hrm_text": "gate_up_proj and gqkv_proj of the file are split when it is loaded, and preflight knows the names in "
    "the file alone. Refused when its training is prepared.",
    "xlnet": "Each token sees the ones after it, which no file says. Refused when its training is prepared.",
    "xmod": "It asks for a language to be set, which its files do not have.",
    "zamba": "A block that several layers share is stored once: preflight counts it once, and PEFT and we adapt it in "
    "every layer that has it. It trains.",
    "zamba2": "As zamba.",
}


def tiny_config(model_type: str, tokens: Mapping[str, int]) -> Any:
    """A configuration of a few thousand parameters. tokens: vocab_size and the ids of the special ones."""
    kind = getattr(transformers, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type]).config_class
    return kind(**{**_shrunk(kind), **tokens, **OWN.get(model_type, {})})


def _shrunk(kind: Any) -> dict[str, Any]:
    """What to give a configuration class: the small numbers that it has, and its parts made small too."""
    default = kind().to_dict()
    own = {name: SMALL[name] for name, value in default.items() if name in SMALL and type(value) is int and value}
    if "kv_lora_rank" in default and "num_key_value_heads" in own:
        own["num_key_value_heads"] = own["num_attention_heads"]  # keys and values of every head come from one vector
    if "is_decoder" in default and not default.get("is_encoder_decoder"):
        own["is_decoder"] = True  # encoders that can be made to look back only
    parts = {
        name: CONFIG_MAPPING[default[name]["model_type"]] if part is AutoConfig else part
        for name, part in getattr(kind, "sub_configs", {}).items()
        if isinstance(default.get(name), dict)
    }
    return {**own, **{name: _shrunk(part) for name, part in parts.items()}}


def study(model_type: str, directory: Path) -> dict[str, Any]:
    """One architecture, all through."""
    directory.mkdir()
    tokens = write_tokenizer(directory / "tokens")
    name = str(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type])
    found: dict[str, Any] = {"type": model_type, "architecture": name}
    try:
        torch.manual_seed(0)
        model = getattr(transformers, name)(tiny_config(model_type, tokens))
        size = sum(parameter.numel() for parameter in model.parameters())
        if size > MOST_PARAMETERS:
            return {**found, "not_made": f"it has {size:,} parameters even when made small"}
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 2:
                    parameter.mul_(3.0)  # as drawn they give logits near zero, in which no mistake shows
        model.save_pretrained(directory / "model")
    except Exception as error:  # noqa: BLE001  whatever it is, the page says so
        return {**found, "not_made": _words(error)}
    for file in (directory / "tokens").iterdir():
        file.rename(directory / "model" / file.name)
    info = describe(directory / "model")
    found["refused"] = [problem.kind for problem in info.problems]
    matrix = coverage(info, "auto")
    found["coverage"] = {"places": matrix.places, "trained": matrix.trained_places}
    found["left_out"] = info.left_out
    found["fused_experts"] = list(info.fused_experts)
    found["context"] = info.context_length
    found["attached"] = {requested: _attached(info, requested) for requested in ("auto", "all-linear")}
    found["peft_alone"] = _peft_alone(info)
    found["trained"] = _trained(info, directory)
    return found


def _attached(info: ModelInfo, requested: str) -> dict[str, Any]:
    """The places that we say get an adapter, against those that PEFT gives one."""
    matrix = coverage(info, requested)
    targets, said = matrix.targets, set(matrix.paths)
    if not targets:
        return {"targets": [], "agree": True}
    try:
        model = load_base_model(Path(info.path), torch.float32)
        done = _lora_paths(get_peft_model(model, LoraConfig(r=2, target_modules=list(targets), task_type="CAUSAL_LM")))
    except Exception as error:  # noqa: BLE001
        return {"targets": list(targets), "agree": False, "error": _words(error)}
    same = Counter(map(_place, said)) == Counter(map(_place, done))
    outcome: dict[str, Any] = {"targets": list(targets), "agree": same, "renamed": same and said != done}
    if not same:
        outcome["only_said"] = _abridged(path for path in said if _place(path) not in set(map(_place, done)))
        outcome["only_done"] = _abridged(path for path in done if _place(path) not in set(map(_place, said)))
        outcome["counts"] = [len(said), len(done)]
    return outcome


def _peft_alone(info: ModelInfo) -> dict[str, Any]:
    """What PEFT's own `all-linear` takes, by name: it knows nothing of routers, nor of what is never called."""
    try:
        model = load_base_model(Path(info.path), torch.float32)
        done = _lora_paths(get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")))
    except Exception as error:  # noqa: BLE001
        return {"error": _words(error)}
    names = {path.rpartition(".")[2] for path in done}
    ours = set(lora_targets(info, "all-linear"))
    return {"only_peft": sorted(names - ours), "only_ours": sorted(ours - names)}


def _lora_paths(model: Any) -> set[str]:
    return {
        path.removeprefix("base_model.model.")
        for path, module in model.named_modules()
        if isinstance(module, LoraLayer)
    }


def _place(path: str) -> tuple[str, ...]:
    """A path by its numbers and its last name: transformers renames what is between when it loads."""
    parts = path.split(".")
    return (*(part for part in parts if part.isdecimal()), parts[-1])


def _abridged(paths: Iterable[str]) -> list[str]:
    return sorted({".".join("*" if part.isdecimal() else part for part in path.split(".")) for path in paths})


def _trained(info: ModelInfo, directory: Path) -> dict[str, Any]:
    """Two epochs, an export, and the adapter loaded with PEFT: does it say what our trainer says?"""
    texts = [f"Number {number} is open " + "every day " * (number % 4 + 1) for number in range(12)]
    rows = write_rows(directory / "rows.jsonl", [{"text": text} for text in texts])
    settings: dict[str, Any] = {"format": "text", "strategy": "standard", "target_modules": lora_targets(info, "auto")}
    trainer = TorchTrainer(assignment(Path(info.path), rows, directory / "work", **settings))
    try:
        prepared = trainer.prepare()
        losses = [trainer.train_epoch(epoch, [5e-3] * epoch, (), lambda _: None).val_loss for epoch in (1, 2)]
        trainer.export(2, [5e-3] * 2, lambda _: None)
    except WorkerFailed as error:
        return {"ok": False, "error": _words(error)}
    except Exception as error:  # noqa: BLE001
        traceback.print_exc()
        return {"ok": False, "error": _words(error), "crashed": True}
    return {
        "ok": True,
        "attention": prepared.attention,
        "head": prepared.head,
        "losses": losses,
        "peft": _loads_in_peft(info, directory),
    }


def _loads_in_peft(info: ModelInfo, directory: Path) -> dict[str, Any]:
    """The exported adapter in PEFT: are all its tensors taken, with the values that were written?"""
    from safetensors.torch import load_file

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            base = load_base_model(Path(info.path), torch.float32)
            loaded = PeftModel.from_pretrained(base, adapter_path(directory / "work"))
    except Exception as error:  # noqa: BLE001
        return {"ok": False, "error": _words(error)}
    written = load_file(adapter_path(directory / "work") / "adapter_model.safetensors")
    there = {name.replace(".default", ""): value for name, value in loaded.state_dict().items() if "lora_" in name}
    odd = [name for name in written.keys() | there.keys() if not _same(written.get(name), there.get(name))]
    return {"ok": not odd, **({"odd": _abridged(odd)} if odd else {})}


def _same(one: Any, other: Any) -> bool:
    return one is not None and other is not None and torch.equal(one, other)


def _words(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else ""
    if text.endswith(":") and len(lines) > 1:
        text = f"{text} {lines[1]}"
    return f"{type(error).__name__}: {text}"[:300]


# -- all of them -----------------------------------------------------------------------------------------------------


def _child(model_type: str, directory: Path, answer: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    try:
        answer.send(study(model_type, directory))
    except Exception as error:  # noqa: BLE001
        traceback.print_exc()
        answer.send({"type": model_type, "not_made": f"the study itself failed: {_words(error)}"})


def studied(model_type: str) -> dict[str, Any]:
    """One architecture in a process of its own, which may crash or hang."""
    context = multiprocessing.get_context("fork")
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        here, there = context.Pipe(duplex=False)
        process = context.Process(target=_child, args=(model_type, Path(place) / "study", there))
        process.start()
        there.close()
        found: dict[str, Any]
        try:
            found = here.recv() if here.poll(SECONDS) else {"not_made": f"it took more than {SECONDS} s"}
        except EOFError:
            process.join()
            found = {"not_made": f"its process ended with {process.exitcode}"}
        process.kill()
        process.join()
        found = json.loads(json.dumps(found).replace(f"{place}/study/", ""))
    name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type]
    return {"type": model_type, "architecture": name, **found, "seconds": round(time.monotonic() - began, 1)}


# -- the page ----------------------------------------------------------------------------------------------------------

_INTRO = """# Architectures

What OneSeek says of a base model's files, compared with what happens when the model is loaded: for every causal
language model in transformers {transformers} that could be made tiny. `bench/architectures.py` makes each of them with
random weights, and compares

- the places that `auto` and `all-linear` would adapt, with those on which PEFT {peft} puts adapters for the same names;
- whether preflight would let it be trained, with whether two epochs, the export and loading the adapter with PEFT work.

Of {all} model types {made} could be made, and {agreeing} of these agree. *places* is how many linear layers `auto`
adapts of all in the layers of the tiny model; *left out* are modules that it passes over. *computed* is how rows are
computed: `packed` side by side, `padded` to the longest, each row by itself (`single`); with the head in chunks at
learned tokens only, or the model's own.
"""


def disagreements(found: Mapping[str, Any]) -> list[str]:
    """What differs between what we say and what happened; empty where nothing does."""
    usable = not found["refused"] and bool(found["attached"]["auto"]["targets"])
    trained = found["trained"]
    faults = []
    if usable != trained["ok"]:
        faults.append(trained.get("error", "It can be trained, and is refused."))
    if usable:
        faults += [f"{name}: {way}" for name, way in found["attached"].items() if not way["agree"]]
    if trained["ok"] and not trained["peft"]["ok"]:
        faults.append(f"PEFT does not load it: {trained['peft']}")
    return faults


def page(results: Sequence[Mapping[str, Any]]) -> str:
    """docs/architectures.md."""
    made = [found for found in results if "not_made" not in found]
    agreeing = [found for found in made if not disagreements(found)]
    text = _INTRO.format(
        transformers=transformers.__version__,
        peft=peft.__version__,
        all=len(results),
        made=len(made),
        agreeing=len(agreeing),
    )
    lines = [text, "| model type | architecture | places | left out | computed | agrees |", "|---|---|---|---|---|---|"]
    lines += [_line(found) for found in made]
    lines += ["", "## Where they differ", "", "| model type | reason |", "|---|---|"]
    lines += [f"| {found['type']} | {REASONS[found['type']]} |" for found in made if disagreements(found)]
    lines += ["", "## Not made", "", "| model type | architecture | why |", "|---|---|---|"]
    not_made = [found for found in results if "not_made" in found]
    lines += [f"| {found['type']} | {found['architecture']} | {_cell(found['not_made'])} |" for found in not_made]
    return "\n".join(lines) + "\n"


def _line(found: Mapping[str, Any]) -> str:
    rows = found["coverage"]
    trained = found["trained"]
    out = ", ".join(found["left_out"]) or ("experts" if found["fused_experts"] else "")
    computed = f"{trained['attention']}, {trained['head']}" if trained["ok"] else "refused" if found["refused"] else ""
    agrees = "no" if disagreements(found) else "yes"
    places = f"{rows['trained']} of {rows['places']}"
    return f"| {found['type']} | {found['architecture']} | {places} | {out} | {computed} | {agrees} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main(arguments: Sequence[str]) -> int:
    """Exit status: 1 where something differs that has no reason."""
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    results = []
    for model_type in arguments or sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES):
        results.append(studied(model_type))
        faults = [] if "not_made" in results[-1] else disagreements(results[-1])
        print(model_type, results[-1].get("not_made") or faults or "agrees", flush=True)
    unexplained = [
        found["type"]
        for found in results
        if "not_made" not in found and disagreements(found) and found["type"] not in REASONS
    ]
    if arguments:
        print(json.dumps(results, indent=1))
    elif not unexplained:
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        PAGE.write_text(page(results), encoding="utf-8")
    if unexplained:
        print(f"No reason is given for: {', '.join(unexplained)}", file=sys.stderr)
    return 1 if unexplained else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
