"""What every selected model makes of the datasets' samples: gathered in limited processes, side by side."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from oneseek.config.schema import TrainingConfig
from oneseek.datasets import limited
from oneseek.datasets.formats import STRATEGY_OF, USED_AS
from oneseek.datasets.scan import Scan
from oneseek.preflight.facts import ModelTokens, RowRefusal, Trouble
from oneseek.preflight.looking import ANEW, Looking, Running
from oneseek.registry.capabilities import ModelInfo

SECONDS_OF_A_MODEL = 120
"""CPU time for all samples; an honest template and tokenizer take about one."""


def tokens_of(
    models: Iterable[ModelInfo],
    dataset: Scan,
    validation: Scan | None,
    config: TrainingConfig,
    looking: Looking = ANEW,
) -> tuple[dict[str, ModelTokens], dict[str, ModelTokens]]:
    """By model key, of the dataset and of the validation dataset, for the models that can be asked: those whose
    tokenizer is here, and whose template is where one is needed. What keeps the others from it is a finding of its own.
    """
    chat = STRATEGY_OF[dataset.format] == "chat"
    asked = [model for model in models if _can_be_asked(model, chat=chat)]
    if validation is not None and USED_AS[validation.format] != USED_AS[dataset.format]:
        validation = None  # which is refused for that
    running: Running = set()
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        try:
            found = list(pool.map(lambda model: _of_model(model, dataset, validation, config, looking, running), asked))
        except BaseException:  # Ctrl-C, mostly: nobody waits for templates that may take minutes
            pool.shutdown(wait=False, cancel_futures=True)
            for process in tuple(running):
                process.kill()
            raise
    of_dataset = {model.key: first for model, (first, _) in zip(asked, found, strict=True)}
    of_validation = {model.key: second for model, (_, second) in zip(asked, found, strict=True) if second is not None}
    return of_dataset, of_validation


def summary(answers: Sequence[limited.Answer], dataset: Scan, limit: int) -> ModelTokens:
    """The answers of one model's process to the samples of a dataset, counted. It may have ended before the last.

    limit: tokens to which rows are cut; that they were cut to another is no matter.
    """
    traits = next((answer.traits for answer in answers if isinstance(answer, limited.Traits)), None)
    troubles = [Trouble(answer.problem, answer.fix) for answer in answers if isinstance(answer, limited.Trouble)]
    prompts = [answer for answer in answers if isinstance(answer, limited.PromptTokens)]
    rows = [answer.cut_to(limit) for answer in answers if isinstance(answer, limited.RowTokens)]
    taken = [row for row in rows if row.refusal is None]
    return ModelTokens(
        traits=traits,
        trouble=troubles[0] if troubles else None,
        rows=len(rows),
        all_rows=len(rows) == dataset.rows,
        refused=tuple(RowRefusal(row.line, row.refusal, row.fix) for row in rows if row.refusal is not None),
        unlearnable=tuple(row.line for row in taken if not row.learnable),
        truncated=sum(row.truncated for row in taken),
        comparable=sum(row.comparable for row in taken),
        longest=max((row.tokens for row in taken), default=0),
        mean=sum(min(row.tokens, limit) for row in taken) / len(taken) if taken else 0.0,
        prompts={prompt.number: prompt.tokens for prompt in prompts if prompt.refusal is None},
        refused_prompts={prompt.number: prompt.refusal for prompt in prompts if prompt.refusal is not None},
    )


def _can_be_asked(model: ModelInfo, *, chat: bool) -> bool:
    return model.source != "hub" and model.usable and (model.chat_template is not None or not chat)


def _of_model(
    model: ModelInfo,
    dataset: Scan,
    validation: Scan | None,
    config: TrainingConfig,
    looking: Looking,
    running: Running,
) -> tuple[ModelTokens, ModelTokens | None]:
    prompts: Mapping[int, str] = dict(enumerate(config.training.sample_prompts, 1))
    order = limited.Order(
        model=model,
        format=USED_AS[dataset.format],
        max_length=config.data.max_length,
        prompts={number: prompt for number, prompt in prompts.items() if prompt.strip()},
        seconds=SECONDS_OF_A_MODEL,
    )
    scans = [dataset] if validation is None else [dataset, validation]
    limit = min(config.data.max_length, model.context_length or config.data.max_length)
    first, *second = (
        summary(answers, each, limit)
        for answers, each in zip(looking.judged(order, scans, running), scans, strict=True)
    )
    return first, second[0] if second else None
