"""OneSeek against TRL and Unsloth on one NVIDIA GPU: SFT and QLoRA of random models of the shape of 1B and 8B.

    python3 bench/gpu.py

needs nothing but Python and pip: it makes an environment for itself and TRL, and one for Unsloth, below
.gpu-environments/. With --python it takes an environment that is there instead. Every side trains in a process of its
own, on the same rows in the same batches, in bf16, from the same adapter, without gradient checkpointing. The table is
printed. A side that can't be installed or fails is a row that says why.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from case import Case, Given, Marks
from shapes import Shape

BENCH = Path(__file__).resolve().parent
REPOSITORY = BENCH.parent
ENVIRONMENTS = REPOSITORY / ".gpu-environments"
SHAPES = {
    "1B": Shape("1B", hidden=2048, layers=16, heads=32, kv_heads=8, intermediate=8192, vocabulary=128256),
    "8B": Shape("8B", hidden=4096, layers=32, heads=32, kv_heads=8, intermediate=14336, vocabulary=128256),
}
QUANTIZATIONS = {"sft": None, "qlora": "4bit"}
PACKAGES = {"oneseek": ("trl", "datasets"), "trl": ("trl", "datasets"), "unsloth": ("unsloth",)}
WARM_UP = 3  # steps that are not timed: kernels are chosen, and memory is taken


@dataclass(frozen=True, kw_only=True)
class GpuCase(Case):
    """`quantization` as in `model.quantization`. `token_budget` is ours alone: the peers compute a batch at once."""

    quantization: str | None
    token_budget: int


# -- what is asked for -------------------------------------------------------------------------------------------------


def main() -> None:
    options = _options()
    gpu = _gpu()
    pythons = {side: options.python or _environment(side) for side in options.sides}
    figures: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        for name in options.models:
            maker = pythons.get("oneseek") or next(iter(pythons.values()))
            model = Path(scratch) / name
            _say(f"making the model {name}")
            _run(maker, "make", name, str(model))
            for way in options.ways:
                figures += _figures(options, Path(scratch), name, way, model, pythons)
            shutil.rmtree(model)
    result = {"gpu": gpu, "rows_per_step": options.batch, "figures": figures}
    if options.into:
        options.into.write_text(json.dumps(result, indent=2) + "\n")
    print(_table(result))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=[*SHAPES])
    parser.add_argument("--ways", nargs="+", choices=QUANTIZATIONS, default=[*QUANTIZATIONS])
    parser.add_argument("--sides", nargs="+", choices=PACKAGES, default=[*PACKAGES])
    parser.add_argument("--steps", type=int, default=12, help=f"optimiser steps, of which {WARM_UP} are not timed")
    parser.add_argument("--batch", type=int, default=8, help="rows in a step")
    parser.add_argument("--python", help="take this Python's environment for all sides, and make none")
    parser.add_argument("--scratch", type=Path, help="where the models are written: 15 GB for 8B")
    parser.add_argument("--into", type=Path, metavar="FILE", help="write the figures there, as JSON")
    options = parser.parse_args()
    if options.steps <= WARM_UP:
        parser.error(f"--steps must be above {WARM_UP}: the first {WARM_UP} are not timed")
    return options


def _gpu() -> str:
    """Its name and memory, as the driver says them."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    found = subprocess.run(query, capture_output=True, text=True, check=False) if shutil.which(query[0]) else None
    if found is None or found.returncode or not found.stdout.strip():
        sys.exit("There is no NVIDIA GPU here, or no driver for it: nvidia-smi names none. Run this on a GPU machine.")
    return found.stdout.splitlines()[0]


def _environment(side: str) -> str | None:
    """The Python of an environment with this side in it; None where it can't be installed."""
    directory = ENVIRONMENTS / ("unsloth" if side == "unsloth" else "oneseek")
    python = directory / "bin" / "python"
    if not (directory / "installed").exists():
        _say(f"installing {side}")
        ENVIRONMENTS.mkdir(exist_ok=True)
        (ENVIRONMENTS / ".gitignore").write_text("*\n")
        venv.create(directory, with_pip=True, clear=True)
        own = ["-c", str(REPOSITORY / "constraints.txt")] if side != "unsloth" else []
        wanted = [f"{REPOSITORY}[quantization]", *PACKAGES[side]]
        pip = subprocess.run([python, "-m", "pip", "install", "--quiet", *own, *wanted], check=False)
        if pip.returncode:
            return None
        (directory / "installed").touch()
    return str(python)


def _figures(
    options: argparse.Namespace, scratch: Path, name: str, way: str, model: Path, pythons: dict[str, str | None]
) -> list[dict[str, Any]]:
    case = GpuCase(
        model=str(model),
        dataset=str(scratch / "rows.jsonl"),
        format="prompt_completion",
        directory=str(scratch / "work"),
        given=str(scratch / "given.json"),
        threads=1,
        batch_size=options.batch,
        learning_rate=1e-4,
        quantization=QUANTIZATIONS[way],
        token_budget=options.batch * 512,
    )
    case.write(scratch / "case.json")
    _write_rows(Path(case.dataset), options.steps * options.batch)
    maker = pythons.get("oneseek") or next(iter(pythons.values()))
    _run(maker, "give", str(scratch / "case.json"))
    peak = json.loads(_run(maker, "peak"))
    found = []
    for side in options.sides:
        _say(f"{name} {way}: {side}")
        figure = {"model": name, "way": way, "side": side, "peak_flops_per_second": peak}
        try:
            found.append(figure | _measured(pythons[side], side, case, scratch))
        except RuntimeError as error:
            found.append(figure | {"failed": str(error)})
    return found


def _measured(python: str | None, side: str, case: GpuCase, scratch: Path) -> dict[str, Any]:
    shutil.rmtree(case.directory, ignore_errors=True)
    marks = scratch / "marks.jsonl"
    memory = json.loads(_run(python, side, str(scratch / "case.json"), str(marks), str(time.monotonic())))
    lines = [json.loads(line) for line in marks.read_text().splitlines()]
    steps = [line for line in lines if line["loss"] is not None]
    lengths = _lengths(Given.read(Path(case.given)), case.batch_size)[WARM_UP:]
    seconds = steps[-1]["at"] - steps[WARM_UP - 1]["at"]
    shape = SHAPES[Path(case.model).name]
    flops = sum(shape.step_flops(sizes, learned, case.lora_r) for sizes, learned in lengths)
    return {
        "tokens_per_second": sum(sum(sizes) for sizes, _ in lengths) / seconds,
        "flops_per_second": flops / seconds,
        "peak_memory": memory,
        "losses": [step["loss"] for step in steps],
    }


def _lengths(given: Given, batch: int) -> list[tuple[list[int], int]]:
    """For every step the lengths of its rows in tokens, and how many are learned."""
    order = given.orders[0]
    steps = [[given.rows[index] for index in order[start : start + batch]] for start in range(0, len(order), batch)]
    return [
        ([len(row["input_ids"]) for row in rows], sum(label != -100 for row in rows for label in row["labels"]))
        for rows in steps
    ]


def _write_rows(path: Path, count: int) -> None:
    from words import completions, lengths, write_rows

    draw = random.Random(1)
    write_rows(path, completions(lengths(count + 1, draw), draw))  # and one to validate on


def _table(result: dict[str, Any]) -> str:
    figures = result["figures"]
    lines = [
        f"{result['gpu']}; {result['rows_per_step']} rows a step",
        "",
        "| model | way | side | tokens/s | share of the bf16 peak | peak memory | largest difference in loss |",
        "|---|---|---|---|---|---|---|",
    ]
    for figure in figures:
        start = f"| {figure['model']} | {figure['way']} | {figure['side']} |"
        if "failed" in figure:
            lines.append(f"{start} not measured: {figure['failed']} | | | |")
            continue
        same = [each for each in figures if (each["model"], each["way"]) == (figure["model"], figure["way"])]
        ours = next((each["losses"] for each in same if each["side"] == "oneseek" and "losses" in each), None)
        apart = max(abs(a - b) for a, b in zip(ours, figure["losses"], strict=True)) if ours else None
        share = figure["flops_per_second"] / figure["peak_flops_per_second"]
        lines.append(
            f"{start} {figure['tokens_per_second']:,.0f} | {share:.0%} | {figure['peak_memory'] / 2**30:.1f} GiB | "
            f"{'' if apart is None else f'{apart:.3f}'} |"
        )
    return "\n".join(lines)


def _run(python: str | None, *arguments: str) -> str:
    """Run a part of this file, below, in an environment; the last line that it prints.

    Raises:
        RuntimeError: it failed, or there is no such environment.
    """
    if python is None:
        raise RuntimeError("it could not be installed")
    done = subprocess.run([python, __file__, "--part", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise RuntimeError(said[-1] if said else f"it ended with {done.returncode}")
    return (done.stdout.splitlines() or [""])[-1]


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


# -- the parts, each in a process of its own ---------------------------------------------------------------------------


def make(name: str, directory: str) -> None:
    """Write a model with random weights in bf16. Its tokenizer is that of a model of words with the same vocabulary."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from words import write_model

    shape, target = SHAPES[name], Path(directory)
    write_model(target, replace(shape, hidden=8, layers=1, heads=1, kv_heads=1, intermediate=8), seed=1)
    (target / "model.safetensors").unlink()
    config = AutoConfig.from_pretrained(target)
    config.update(
        {
            "hidden_size": shape.hidden,
            "intermediate_size": shape.intermediate,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.kv_heads,
            "head_dim": shape.hidden // shape.heads,
            "initializer_range": 0.02,
        }
    )
    torch.manual_seed(1)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(target)


def give(path: str) -> None:
    """Write the rows and the adapter that all sides begin with."""
    from ours import give as given

    case = GpuCase.read(Path(path))
    given(case).write(Path(case.given))


def peak() -> None:
    """Print the FLOP/s of a large bf16 matrix product, the median of ten."""
    import torch

    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    seconds = []
    for _ in range(13):
        torch.cuda.synchronize()
        began = time.perf_counter()
        a @ b
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    print(2 * 8192**3 / statistics.median(seconds[3:]))


def oneseek(case: GpuCase, watch: Marks) -> None:
    from msgspec.structs import replace as changed
    from ours import assignment

    from oneseek.engine.create import create
    from oneseek.engine.interface import Damaged, Progress

    def report(message: Progress | Damaged) -> None:
        if isinstance(message, Progress):
            watch.step(message.loss)

    trainer = create(changed(assignment(case), quantization=case.quantization, token_budget=case.token_budget))
    trainer.prepare()
    watch.begins()
    trainer.train_epoch(1, [case.learning_rate], (), report)


def trl(case: GpuCase, watch: Marks) -> None:
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    packed = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    options: dict[str, Any] = {"quantization_config": packed} if case.quantization else {}
    model = AutoModelForCausalLM.from_pretrained(case.model, dtype=torch.bfloat16, device_map={"": 0}, **options)
    _train_with_trl(case, watch, model)


def unsloth(case: GpuCase, watch: Marks) -> None:
    import torch
    from unsloth import FastLanguageModel

    model, _ = FastLanguageModel.from_pretrained(
        case.model, dtype=torch.bfloat16, load_in_4bit=case.quantization == "4bit", max_seq_length=case.max_length
    )
    model = FastLanguageModel.get_peft_model(
        model,
        r=case.lora_r,
        lora_alpha=case.lora_alpha,
        target_modules=list(case.target_modules),
        use_gradient_checkpointing=False,
    )
    _train_with_trl(case, watch, model)


def _train_with_trl(case: GpuCase, watch: Marks, model: Any) -> None:
    from datasets import Dataset
    from peft import LoraConfig, PeftModel, set_peft_model_state_dict
    from safetensors.torch import load_file
    from transformers import AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer
    from trl_peer import InGivenOrder

    given = Given.read(Path(case.given))

    class Peer(SFTTrainer):  # type: ignore[misc]
        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset  # it is tokenised

        def _get_train_sampler(self, *_: Any) -> Any:
            return InGivenOrder(given.orders)

        def training_step(self, *arguments: Any, **named: Any) -> Any:
            loss = super().training_step(*arguments, **named)
            self.last_loss = float(loss)
            return loss

    class Telling(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            watch.step(peer.last_loss)

    lora = LoraConfig(
        r=case.lora_r, lora_alpha=case.lora_alpha, target_modules=list(case.target_modules), task_type="CAUSAL_LM"
    )
    peer = Peer(
        model=model,
        args=SFTConfig(
            output_dir=case.directory,
            per_device_train_batch_size=case.batch_size,
            num_train_epochs=1,
            learning_rate=case.learning_rate,
            lr_scheduler_type="constant",
            max_grad_norm=1.0,
            weight_decay=0.0,
            max_length=case.max_length,
            seed=case.seed,
            activation_checkpointing=False,
            bf16=True,
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(given.rows),
        processing_class=AutoTokenizer.from_pretrained(case.model),
        peft_config=None if isinstance(model, PeftModel) else lora,
        callbacks=[Telling()],
    )
    set_peft_model_state_dict(peer.model, load_file(given.adapter))
    watch.begins()
    peer.train()


def _part(name: str, *arguments: str) -> None:
    if name in ("make", "give", "peak"):
        {"make": make, "give": give, "peak": peak}[name](*arguments)
        return
    import torch

    path, marks, started = arguments
    case = GpuCase.read(Path(path))
    {"oneseek": oneseek, "trl": trl, "unsloth": unsloth}[name](case, Marks(Path(marks), float(started)))
    print(torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--part"]:
        _part(*sys.argv[2:])
    else:
        main()
