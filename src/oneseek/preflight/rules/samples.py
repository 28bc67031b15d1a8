"""What the models are asked after each epoch."""

from __future__ import annotations

from collections.abc import Iterator

from oneseek.config.parse import shown
from oneseek.config.schema import TrainingConfig
from oneseek.preflight.facts import Facts
from oneseek.preflight.finding import Change, Finding, rule

FIELD = "training.sample_prompts"


@rule
def sample_prompts_say_something(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """There is nothing to answer in an empty prompt."""
    prompts = config.training.sample_prompts
    others = tuple(prompt for prompt in prompts if prompt.strip())
    for number, prompt in enumerate(prompts, 1):
        if not prompt.strip():
            yield Finding(
                severity="error",
                field=FIELD,
                problem=f"Sample prompt {number} is empty.",
                fix=f"Write what to ask, or remove it from {FIELD}.",
                changes=(Change(FIELD, others or None),),
            )


@rule
def sample_prompts_can_be_asked(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """A prompt that a model's template refuses, or that leaves no room for an answer, would never be answered."""
    for model in facts.models:
        tokens = facts.tokens.get(model.key)
        if tokens is None:
            continue
        too_long = {
            number: f"It has {count:,} tokens; the model reads {model.context_length:,} and must answer in them."
            for number, count in tokens.prompts.items()
            if model.context_length is not None and count >= model.context_length
        }
        for number, reason in sorted({**tokens.refused_prompts, **too_long}.items()):
            yield Finding(
                severity="error",
                field=FIELD,
                problem=f"Sample prompt {number} ({shown(config.training.sample_prompts[number - 1])}) can't be put to "
                f"{model.display_name}: {reason}",
                fix=f"Shorten it or remove it from {FIELD}, or select another base model.",
                model=model.key,
            )
