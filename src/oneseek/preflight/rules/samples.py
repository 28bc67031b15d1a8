"""What the models are asked after each epoch."""

from __future__ import annotations

from collections.abc import Iterator

from oneseek.chat.template import ChatTemplate
from oneseek.config.parse import shown
from oneseek.config.schema import TrainingConfig
from oneseek.errors import DatasetError, ModelError
from oneseek.preflight.facts import Facts
from oneseek.preflight.finding import Finding, rule
from oneseek.preflight.rules.models import strategy_of
from oneseek.registry.capabilities import ModelInfo

FIELD = "training.sample_prompts"


@rule
def sample_prompts_can_be_asked(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """A prompt that is empty, or that a model's template refuses, would cost its model the run."""
    prompts = dict(enumerate(config.training.sample_prompts, 1))
    for number, prompt in prompts.items():
        if not prompt.strip():
            yield Finding(
                severity="error",
                field=FIELD,
                problem=f"Sample prompt {number} is empty.",
                fix=f"Write what to ask, or remove it from {FIELD}.",
            )
    if strategy_of(config, facts) != "chat":
        return
    asked = {number: prompt for number, prompt in prompts.items() if prompt.strip()}
    for model in facts.models:
        yield from _refused(model, asked)


def _refused(model: ModelInfo, prompts: dict[int, str]) -> Iterator[Finding]:
    for number, prompt in prompts.items() if model.chat_template is not None else ():
        try:
            template = ChatTemplate(model.chat_template or "", model.special_tokens)
            template.render([{"role": "user", "content": prompt}], add_generation_prompt=True)
        except (DatasetError, ModelError) as error:
            yield Finding(
                severity="error",
                field=FIELD,
                problem=f"Sample prompt {number} ({shown(prompt)}) can't be put to {model.display_name}: "
                f"{error.problem}",
                fix=f"Remove it from {FIELD}, or select another base model.",
                model=model.key,
            )
