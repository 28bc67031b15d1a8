"""Every setting of a run: name, type, bounds, default and meaning, in this one place.

The file, environment variables, flags, `oneseek config show` and docs/configuration.md are all made from these classes.
A field's docstring is its help. Bounds are pydantic's, on both sides of every number: the canonical JSON of RFC 8785,
which recipes are written in, has no whole numbers from 2**53 on. `recommended` is the range outside which a warning is
given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    field_validator,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema

from oneseek.errors import ConfigError
from oneseek.names import format_version, parse_version


def split_list(value: Any) -> Any:
    """`a b, c` as ("a b", "c"), since names of directories may hold spaces. What is a list is one already; anything
    else is left for the type check."""
    if value is None:
        return ()
    if isinstance(value, str):
        return tuple(name for part in value.split(",") if (name := part.strip()))
    return tuple(value) if isinstance(value, list) else value


def _target_modules(value: Any) -> Any:
    names = split_list(value)
    return names[0] if names in (("auto",), ("all-linear",)) else names


def _can_be_written(text: str) -> str:
    """Text that a path, UTF-8 and JSON can hold. YAML and JSON can spell NUL and halves of characters, which none can.
    A file name that is not UTF-8 reaches Python as such halves, too."""
    if "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):
        raise ValueError("it holds a NUL or half a character, which cannot be written as UTF-8 text")
    return text


Text = Annotated[str, AfterValidator(_can_be_written)]
Targets = Literal["auto", "all-linear"] | Annotated[tuple[Text, ...], Field(min_length=1)]


def _recommended(low: float, high: float, unit: str = "") -> Any:
    extra: dict[str, Any] = {"x-recommended": [low, high]}
    return Field(json_schema_extra=extra | ({"x-unit": unit} if unit else {}))


class Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False, protected_namespaces=()
    )


class ModelSection(Section):
    """Which base models are trained."""

    base_models: tuple[Text, ...] = ()
    """The selection: names, keys or hub ids, a list or comma-separated. One run trains them side by side."""

    name: Text | None = None
    """One base model: the same as a `base_models` of one."""

    quantization: Literal["4bit", "8bit"] | None = None
    """Load the frozen base weights in 4 or 8 bits (QLoRA). Needs bitsandbytes and accelerate."""

    @field_validator("base_models", mode="before", json_schema_input_type=str | tuple[Text, ...])
    @classmethod
    def _split_names(cls, value: Any) -> Any:
        return split_list(value)

    @model_validator(mode="after")
    def _one_way_to_select(self) -> ModelSection:
        if self.name and self.base_models and self.base_models != (self.name,):
            raise ValueError("give model.name or model.base_models, not both")
        return self

    @property
    def selection(self) -> tuple[str, ...]:
        return self.base_models or ((self.name,) if self.name else ())


class DataSection(Section):
    """What they are trained on."""

    dataset: Text | None = None
    """Path of the training data (JSONL, JSON, CSV or Parquet with messages, ShareGPT, text, prompt and completion,
    Alpaca, or preferences), or the name of a stored dataset."""

    validation_dataset: Text | None = None
    """Path or stored name of rows to validate on. When absent, `validation_split` of the dataset is set aside."""

    validation_split: Annotated[float, Field(gt=0, lt=1), _recommended(0.05, 0.2)] = 0.1
    """Share of the rows set aside for validation, the same rows for every model; at least one row."""

    strategy: Literal["chat", "standard"] | None = None
    """`chat` renders messages through the model's own template, `standard` is plain text. Default: what the data is."""

    max_length: Annotated[int, Field(ge=8, le=2**31 - 1), _recommended(256, 8192, "tokens")] = 2048
    """Longest example in tokens; longer ones are cut at the end, and counted."""

    bad_rows: Literal["refuse", "quarantine"] = "refuse"
    """What is done about rows that cannot be used: `refuse` the run, or `quarantine` them: they are left out, and kept
    with line and reason in the run's quarantine.jsonl."""


class TrainingSection(Section):
    """How they are trained."""

    method: Literal["sft", "dpo"] = "sft"
    """Supervised fine-tuning, or direct preference optimisation."""

    num_epochs: Annotated[int, Field(gt=0, le=1_000_000), _recommended(1, 10, "epochs")] = 3
    """Passes over the training rows. Auto-stop may end a run earlier."""

    batch_size: Annotated[int, Field(gt=0, le=1_000_000), _recommended(1, 8, "rows")] = 8
    """Rows of a batch. With `gradient_accumulation_steps` it says how many rows make an optimiser step; how many of
    them are computed at once follows from the memory there is."""

    gradient_accumulation_steps: Annotated[int, Field(gt=0, le=1_000_000), _recommended(1, 32, "batches")] = 1
    """Batches of an optimiser step."""

    learning_rate: Annotated[float, Field(gt=0, le=1), _recommended(1e-5, 5e-4)] = 1e-4
    """Base learning rate; a model's own is this times its adaptive weight times the schedule."""

    lr_scheduler: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate falls after the warm-up: to zero in a line, to zero along a half cosine, or not at all."""

    warmup_ratio: Annotated[float, Field(ge=0, le=1), _recommended(0, 0.1)] = 0.03
    """Share of all optimiser steps in which the learning rate rises from zero in a line."""

    max_grad_norm: Annotated[float, Field(gt=0, le=1e9), _recommended(0.3, 1)] = 1.0
    """Gradients are scaled down to this L2 norm where it is exceeded."""

    weight_decay: Annotated[float, Field(ge=0, le=1), _recommended(0, 0.1)] = 0.0
    """AdamW's decoupled weight decay on the adapter's matrices."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    """Decides the split, the order of rows, the adapter's first values and dropout."""

    checkpoint_every: Annotated[int, Field(gt=0, le=1_000_000_000)] | None = None
    """Optimiser steps between checkpoints inside an epoch, besides the one at its end. Default: none inside."""

    sample_prompts: Annotated[tuple[Text, ...], Field(json_schema_extra={"x-unit": "texts"})] = ()
    """Prompts that every model answers after each epoch; the answers are recorded. A list, or one text."""

    sample_tokens: Annotated[int, Field(gt=0, le=100_000), _recommended(16, 512, "tokens")] = 64
    """Longest answer to a sample prompt."""

    keep: Literal["best", "last"] = "best"
    """Which epoch's adapter a model keeps: that of its best ranked metric, or the last."""

    rank_by: Literal["bits_per_byte", "val_loss"] = "bits_per_byte"
    """What leaderboard, adaptive weights and auto-stop compare. Bits per byte compares across tokenizers; preferences
    are ranked by their validation loss."""

    @field_validator("sample_prompts", mode="before", json_schema_input_type=str | tuple[Text, ...])
    @classmethod
    def _one_prompt(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class LoraSection(Section):
    """The adapter that is trained on each base model."""

    r: Annotated[int, Field(gt=0, le=1024), _recommended(8, 64)] = 16
    """Rank of the two matrices."""

    alpha: Annotated[float, Field(gt=0, le=1_000_000), _recommended(8, 128)] = 32
    """The update is scaled by alpha / r; typically twice r."""

    dropout: Annotated[float, Field(ge=0, lt=1), _recommended(0, 0.1)] = 0.0
    """Share of the adapter's inputs set to zero in training."""

    use_rslora: bool = False
    """Scale the update by alpha / sqrt(r) instead of alpha / r (rank-stabilised LoRA), which suits high ranks."""

    target_modules: Annotated[Targets, BeforeValidator(_target_modules, json_schema_input_type=Targets | str)] = "auto"
    """`auto` (what suits the family), `all-linear` (every decoder linear but head and routers), or module names."""


class DpoSection(Section):
    """Direct preference optimisation; read where `training.method` is `dpo`."""

    beta: Annotated[float, Field(gt=0, le=1000), _recommended(0.01, 0.5)] = 0.1
    """How strongly the trained model is held to the base model: the higher, the closer it stays."""

    loss: Literal["sigmoid", "ipo"] = "sigmoid"
    """`sigmoid` is the original loss; `ipo` aims at a fixed margin and overfits less to certain preferences."""

    label_smoothing: Annotated[float, Field(ge=0, lt=0.5), _recommended(0, 0.1)] = 0.0
    """Assumed share of preferences that are the wrong way round; for the sigmoid loss."""


class AdjustStrategySection(Section):
    """How adaptive weights move after an epoch."""

    top_model_boost: Annotated[float, Field(ge=0, le=1000), _recommended(0, 1)] = 0.3
    """The best model's weight is multiplied by 1 + this."""

    bottom_model_penalty: Annotated[float, Field(ge=0, lt=1), _recommended(0, 0.9)] = 0.4
    """The worst model's weight is multiplied by 1 - this."""

    normalize_weights: bool = True
    """Scale the weights so that their mean is 1.0; false only clips them."""

    adjust_every_epoch: bool = True
    """False: adjust only after epochs in which some model improved."""


class AdaptiveWeightsSection(Section):
    """Learning rate shifted towards the models that are winning."""

    enabled: bool = True
    """False: every weight stays 1.0."""

    min_multiplier: Annotated[float, Field(gt=0, le=1), _recommended(0.1, 1)] = 0.5
    """No weight falls below this."""

    max_multiplier: Annotated[float, Field(ge=1, le=1000), _recommended(1, 3)] = 1.5
    """No weight rises above this."""

    adjust_strategy: AdjustStrategySection = AdjustStrategySection()


class ConfidenceAutoStopSection(Section):
    """The run ends when nothing more is learned."""

    enabled: bool = True
    """False: every epoch is trained."""

    threshold: Annotated[float, Field(ge=0, le=1000), _recommended(0.0001, 0.05)] = 0.001
    """An epoch whose ranked metric changed by less than this is a plateau."""

    patience: Annotated[int, Field(gt=0, le=1_000_000), _recommended(1, 10, "epochs")] = 3
    """Consecutive plateau epochs after which the run stops."""

    min_epochs: Annotated[int, Field(gt=0, le=1_000_000), _recommended(1, 10, "epochs")] = 2
    """The run never stops itself before this epoch."""


class DisplaySection(Section):
    """Columns of the leaderboard."""

    show_weights: bool = True
    """Adaptive weights."""

    show_lr_multipliers: bool = True
    """Learning rates."""

    show_loss_per_model: bool = True
    """Validation losses."""

    show_progress: bool = True
    """Progress and time left."""


class LiveLeaderboardSection(Section):
    """Who is winning, while it happens."""

    enabled: bool = True
    """Show the leaderboard in the terminal while training."""

    refresh_interval: Annotated[float, Field(gt=0, le=86_400), _recommended(1, 30, "seconds")] = 5
    """At most one progress event per model in this many seconds."""

    display: DisplaySection = DisplaySection()


class MetadataSection(Section):
    """How runs and their files are named and written."""

    naming_pattern: Literal["run-{timestamp}"] = "run-{timestamp}"
    """Name of a run."""

    timestamp_format: Literal["%Y%m%d-%H%M%S"] = "%Y%m%d-%H%M%S"
    """Its time stamp (UTC), without the colons that Windows refuses."""

    use_atomic_writes: bool = True
    """Files are written whole or not at all; this cannot be switched off."""

    temp_suffix: Literal[".tmp"] = ".tmp"
    """Ending of a file that is being written."""

    @field_validator("use_atomic_writes")
    @classmethod
    def _always_on(cls, value: bool) -> bool:
        if not value:
            raise ValueError("files are always written whole; this cannot be switched off")
        return value


MODEL_OVERRIDABLE = {
    "lora": frozenset(LoraSection.model_fields),
    # What must be equal for the models to be compared, or to march in step, is not there.
    "training": frozenset(
        {"batch_size", "gradient_accumulation_steps", "learning_rate", "lr_scheduler", "warmup_ratio", "max_grad_norm"}
        | {"weight_decay"}
    ),
}


class PartOf:
    """The type of some fields of a section: a mapping that holds only those given, each checked as in the section."""

    def __init__(self, section: type[Section], fields: frozenset[str]) -> None:
        self.section = section
        self.fields = fields

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        fields = {
            name: core_schema.typed_dict_field(handler.generate_schema(_annotated(self.section, name)), required=False)
            for name in self.section.model_fields
            if name in self.fields
        }
        return core_schema.typed_dict_schema(fields, extra_behavior="forbid", config={"allow_inf_nan": False})


def _annotated(section: type[Section], name: str) -> Any:
    field = section.model_fields[name]
    said = Field(description=field.description, json_schema_extra=field.json_schema_extra)
    return Annotated[(field.annotation, *field.metadata, said)]


class OverrideSection(Section):
    """Settings of `lora` and `training` for one model, by its key."""

    lora: Annotated[Mapping[str, Any], PartOf(LoraSection, MODEL_OVERRIDABLE["lora"])] = Field(default_factory=dict)
    """Fields of `lora` that differ for this model."""

    training: Annotated[Mapping[str, Any], PartOf(TrainingSection, MODEL_OVERRIDABLE["training"])] = Field(
        default_factory=dict
    )
    """Fields of `training` that differ for this model."""


class OutputSection(Section):
    """Where results go."""

    directory: Text | None = None
    """Directory that receives oneseek-7b-zero/ and oneseek-certified/. Default: the models directory."""

    version: Text | None = None
    """Version of the results, as 1.0; the next free one when not given. An existing one is never overwritten."""

    @field_validator("version")
    @classmethod
    def _major_and_minor(cls, value: str | None) -> str | None:
        try:
            return format_version(parse_version(value)) if value is not None else None
        except ConfigError as error:
            raise ValueError(str(error)) from error


class ExecutionSection(Section):
    """Where the training happens. Nothing here changes what is computed, except by the threads frozen in the plan."""

    executor: Literal["local", "inline", "ray"] = "local"
    """`local`: a process per model, as many at once as memory allows. `inline`: in this process, one by one."""

    threads: Annotated[int, Field(gt=0, le=65_536)] | None = None
    """CPU threads of all models together. Default: the machine's cores."""

    gradient_checkpointing: Literal["auto", "always", "never"] = "auto"
    """Compute activations twice instead of keeping them: slower, far less memory. `auto`: where they do not fit."""

    worker_timeout: Annotated[float, Field(gt=0, le=86_400), _recommended(10, 600, "seconds")] = 60
    """A worker that has not given a sign of life for this long is killed and started again."""

    max_tries: Annotated[int, Field(gt=0, le=1000), _recommended(1, 5)] = 3
    """Times that a crashed worker's epoch is tried before its model is quarantined."""


class TrainingConfig(Section):
    """Everything that one run was asked to do."""

    model: ModelSection = ModelSection()
    data: DataSection = DataSection()
    training: TrainingSection = TrainingSection()
    lora: LoraSection = LoraSection()
    dpo: DpoSection = DpoSection()
    adaptive_weights: AdaptiveWeightsSection = AdaptiveWeightsSection()
    confidence_auto_stop: ConfidenceAutoStopSection = ConfidenceAutoStopSection()
    live_leaderboard: LiveLeaderboardSection = LiveLeaderboardSection()
    metadata: MetadataSection = MetadataSection()
    per_model: dict[str, OverrideSection] = Field(default_factory=dict)
    """Overrides by model key, as `per_model.mistral-7b.lora.r`."""
    output: OutputSection = OutputSection()
    execution: ExecutionSection = ExecutionSection()

    def lora_for(self, key: str) -> LoraSection:
        """The adapter settings of one model: `lora` under `per_model.<key>.lora`."""
        override = self.per_model.get(key)
        return LoraSection(**{**self.lora.model_dump(), **override.lora}) if override else self.lora

    def training_for(self, key: str) -> TrainingSection:
        """The training settings of one model: `training` under `per_model.<key>.training`."""
        override = self.per_model.get(key)
        return TrainingSection(**{**self.training.model_dump(), **override.training}) if override else self.training
