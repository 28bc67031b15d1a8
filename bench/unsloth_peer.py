"""Unsloth's side of a comparison: its model, in the trainer that TRL's side has."""

from __future__ import annotations

from case import Case, Watch, as_script


def train(case: Case, watch: Watch) -> None:
    from unsloth import FastLanguageModel  # noqa: I001  # it changes the libraries that are imported after it

    import torch
    from trl_peer import train_model

    model, _ = FastLanguageModel.from_pretrained(
        case.model,
        dtype=torch.float32,
        load_in_4bit=False,
        max_seq_length=case.max_length,
        use_gradient_checkpointing=False,
    )
    model = FastLanguageModel.get_peft_model(
        model,
        r=case.lora_r,
        lora_alpha=case.lora_alpha,
        target_modules=list(case.target_modules),
        use_gradient_checkpointing=False,
    )
    train_model(case, watch, model)


if __name__ == "__main__":
    as_script(train)
