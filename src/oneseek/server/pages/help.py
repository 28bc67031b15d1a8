"""What is said beside each field of the Train form. The schema tells who writes a file what a setting is; this tells
who fills in a form what it does, and which way to turn it. Bounds, defaults and recommended ranges are the schema's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

HELP: Final[Mapping[str, str]] = {
    "model.base_models": (
        "The models to train. Each gets an adapter of its own from the same rows, and the leaderboard shows which of "
        "them learns best."
    ),
    "model.quantization": (
        "Loads the base models’ weights in 4 or 8 bits (QLoRA), so that larger models fit; a little less exact. The "
        "server needs bitsandbytes and accelerate for it."
    ),
    "data.dataset": (
        "The rows to learn from: chats, prompts with their answers, plain text, or preferences. Which of them a file "
        "holds is found out when it comes."
    ),
    "data.validation_dataset": (
        "A stored dataset that is only measured on, never learned from. Without one, the validation share of the "
        "dataset is set aside."
    ),
    "data.validation_split": (
        "Share of the rows that are only measured on, the same ones for every model: the leaderboard compares by "
        "them. More of them measure more surely, and leave fewer to learn from."
    ),
    "data.strategy": (
        "Chat puts each row into the model’s own chat template, so that it learns to answer. Standard learns text as "
        "it stands, and works with every model."
    ),
    "data.max_length": (
        "Longest row in tokens; longer ones are cut at the end. Long rows take more memory. The lengths shown with "
        "the dataset tell what would be cut."
    ),
    "data.bad_rows": (
        "What happens to rows that can’t be used: they stop the run before it starts, or they are left out, and kept "
        "with line and reason in its quarantine.jsonl."
    ),
    "training.method": (
        "SFT learns to give the answers in the rows. DPO learns from pairs of answers to prefer one to the other, and"
        " needs preferences."
    ),
    "training.num_epochs": (
        "How many times all rows are gone through. Too few and little is learned, too many and the rows are learned "
        "by heart. Auto-stop may end the run earlier."
    ),
    "training.batch_size": (
        "Rows that each step learns from, times the batches per step. More make steps steadier, fewer make more of "
        "them. How many are computed at once follows from the memory."
    ),
    "training.gradient_accumulation_steps": (
        "Batches that are put together to one step: 4 batches of 8 rows are learned from as 32 at once."
    ),
    "training.learning_rate": (
        "How far each step goes. Too high and the loss jumps about or grows, too low and little is learned. A model’s"
        " own rate is this times its weight."
    ),
    "training.lr_scheduler": (
        "How the learning rate falls to zero after the warm-up: evenly (linear), or late and softly (cosine). "
        "Constant: it does not fall."
    ),
    "training.warmup_ratio": (
        "Share of all steps in which the learning rate rises from zero, so that the first ones, which know least, do "
        "no harm."
    ),
    "training.max_grad_norm": (
        "How hard a single step may pull: larger gradients are scaled down to this norm. Lower is calmer and slower."
    ),
    "training.weight_decay": (
        "How much the adapter’s weights are drawn towards zero in each step, against learning by heart. 0 is off."
    ),
    "training.seed": (
        "Where all chance comes from: the split, the order of rows, the adapter’s first values, dropout. The same "
        "seed and settings give the same run again."
    ),
    "training.checkpoint_every": (
        "Steps after which the state is saved inside an epoch too, so that a run that is broken off has less to do "
        "again. Without it, only at the end of each epoch."
    ),
    "training.sample_prompts": (
        "What every model is asked after each epoch, so that you can read how it gets better. The answers are kept "
        "with the run."
    ),
    "training.sample_tokens": "Longest answer to a sample prompt, in tokens.",
    "training.keep": (
        "Which epoch’s adapter a model keeps: the one that measured best, or the last. The best is safe against a run"
        " that went on for too long."
    ),
    "training.rank_by": (
        "What ranks, weights and auto-stop go by. Bits per byte are fair between models that cut text into different "
        "tokens, validation loss is not. DPO always goes by validation loss."
    ),
    "lora.r": (
        "Size of the adapter. A higher rank can learn more, and makes larger files. 16 is enough for most datasets."
    ),
    "lora.alpha": "How strongly the adapter acts: what it adds is scaled by alpha / rank. Twice the rank is usual.",
    "lora.dropout": (
        "Share of the adapter’s inputs that each step leaves out at random, against learning by heart. Worth trying "
        "with few rows; 0 is off."
    ),
    "lora.use_rslora": (
        "Scales by alpha / √rank instead of alpha / rank, which lets high ranks learn as much as they can."
    ),
    "lora.target_modules": (
        "Which parts of a model get an adapter. Filled in, each model gets what suits its family; all linear modules "
        "learn more and train more parameters. The table shows what each model has."
    ),
    "dpo.beta": "How strongly a model is held to what it was: the higher, the closer it stays to its base model.",
    "dpo.loss": (
        "Sigmoid is the original loss of DPO. IPO aims at a fixed margin, and overfits less where preferences are "
        "certain."
    ),
    "dpo.label_smoothing": (
        "Share of the preferences that are assumed to be the wrong way round: 0 trusts all of them. Only for the "
        "sigmoid loss."
    ),
    "adaptive_weights.enabled": (
        "Moves learning rate towards the models that lead: the best gets more after each epoch, the worst less. Off, "
        "all keep the same."
    ),
    "adaptive_weights.min_multiplier": (
        "No model’s weight falls below this. At 0.5 the last one still learns at half the base rate."
    ),
    "adaptive_weights.max_multiplier": (
        "No model’s weight rises above this. At 1.5 the leader learns at one and a half times the base rate."
    ),
    "adaptive_weights.adjust_strategy.top_model_boost": (
        "What the best model’s weight gains after an epoch: 0.3 multiplies it by 1.3."
    ),
    "adaptive_weights.adjust_strategy.bottom_model_penalty": (
        "What the worst model’s weight loses after an epoch: 0.4 multiplies it by 0.6."
    ),
    "adaptive_weights.adjust_strategy.normalize_weights": (
        "Scales all weights so that their mean is 1.0: what one gains, others lose. Off, they are only held between "
        "their bounds."
    ),
    "adaptive_weights.adjust_strategy.adjust_every_epoch": (
        "Moves the weights after every epoch. Off, only after epochs in which some model got better."
    ),
    "confidence_auto_stop.enabled": (
        "Ends the run when nothing more is learned, which saves time and keeps models from learning rows by heart. "
        "Off, every epoch is trained."
    ),
    "confidence_auto_stop.threshold": (
        "An epoch in which the ranked figure changes by less than this counts as flat: nothing more was learned in it."
    ),
    "confidence_auto_stop.patience": "So many flat epochs in a row end the run.",
    "confidence_auto_stop.min_epochs": "Auto-stop never ends the run before this epoch.",
    "live_leaderboard.enabled": "Shows the leaderboard in the terminal as well, where the run is started from one.",
    "live_leaderboard.refresh_interval": (
        "Seconds between two messages on how far a model is in its epoch. What an epoch ends with always comes at once."
    ),
    "live_leaderboard.display.show_weights": "The leaderboard’s column of weights, and their chart.",
    "live_leaderboard.display.show_lr_multipliers": "The leaderboard’s column of learning rates, and their chart.",
    "live_leaderboard.display.show_loss_per_model": "The leaderboard’s column of validation losses.",
    "live_leaderboard.display.show_progress": "How far the run and each model is, and the time that is left.",
    "output.version": (
        "What the results are called, as 1.0. Left empty, it is the next one that is free; one that is there is never"
        " overwritten."
    ),
    "execution.executor": (
        "Where the models are trained: each in a process of its own, as many at once as memory allows, or all in the "
        "run’s own process, one by one."
    ),
    "execution.threads": "CPU threads of all models together. Left empty, all of the machine’s cores.",
    "execution.gradient_checkpointing": (
        "Computes activations a second time instead of keeping them: slower, with far less memory. Automatic: only "
        "where they don’t fit."
    ),
    "execution.worker_timeout": (
        "A model’s process that has given no sign of life for so many seconds is ended and started again."
    ),
    "execution.max_tries": (
        "How often the epoch of a process that crashed is tried before its model is quarantined. The other models go "
        "on."
    ),
}
