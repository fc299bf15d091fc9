"""Recipe sections for method and training, with the names of peft's LoraConfig and transformers' TrainingArguments."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import field_validator, model_validator
from typing_extensions import Self

from airsmith.recipe.fields import RecipeSection, recipe_field

MethodName = Literal["lora", "qlora", "full"]

DEFAULT_WARMUP_RATIO = 0.03


class Method(RecipeSection):
    """The trainable parameters: low-rank adapters, low-rank adapters on a 4-bit base model, or all parameters."""

    name: MethodName = recipe_field(
        "lora",
        description="`lora`, `qlora` (LoRA on a 4-bit base model) or `full` (all parameters).",
        form="open",
        labels={
            "lora": "LoRA: low-rank adapters",
            "qlora": "QLoRA: LoRA on a 4-bit base model",
            "full": "Full: all parameters",
        },
    )
    r: int = recipe_field(16, description="Rank of the LoRA matrices.", form="open", ge=1, le=1024)
    lora_alpha: float = recipe_field(
        32, description="LoRA alpha; the update is scaled by alpha / r.", form="open", gt=0
    )
    lora_dropout: float = recipe_field(0.0, description="Dropout before the LoRA matrices.", ge=0, lt=1)
    target_modules: tuple[str, ...] = recipe_field(
        ("all-linear",),
        description="Names of modules that get LoRA matrices; `all-linear`: all linear layers except the output head.",
        min_length=1,
    )
    rank_pattern: dict[str, int] = recipe_field(
        description="Rank by module name or regular expression, if it differs from r.", default_factory=dict
    )
    alpha_pattern: dict[str, float] = recipe_field(
        description="Alpha by module name or regular expression, if it differs from lora_alpha.",
        default_factory=dict,
    )
    use_rslora: bool = recipe_field(
        False, description="Scale by alpha / sqrt(r) (rank-stabilized LoRA) instead of alpha / r."
    )
    use_dora: bool = recipe_field(
        False,
        description="Weight-decomposed LoRA (DoRA): LoRA updates the direction of a weight, a vector its magnitude.",
    )
    modules_to_save: tuple[str, ...] = recipe_field(
        (), description="Modules to train fully and save with the adapter, for example `lm_head`."
    )

    @field_validator("target_modules", mode="before")
    @classmethod
    def _one_name_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _full_has_no_lora_settings(self) -> Self:
        if self.name != "full":
            return self
        defaults = {
            name: field.get_default(call_default_factory=True) for name, field in type(self).model_fields.items()
        }
        changed = [name for name in defaults if name != "name" and getattr(self, name) != defaults[name]]
        if changed:
            raise ValueError(
                f"method.name is 'full', which trains all parameters, but method.{changed[0]} configures LoRA: "
                f"remove {', '.join(changed)} or set method.name to 'lora'"
            )
        return self


class Training(RecipeSection):
    """The optimization, independent of the number of devices."""

    num_train_epochs: float | None = recipe_field(
        None,
        description="Passes over the training split; defaults to 1. Excludes max_steps.",
        unit="epochs",
        form="open",
        gt=0,
    )
    max_steps: int | None = recipe_field(
        None,
        description="Total number of optimizer steps. Excludes num_train_epochs.",
        unit="optimizer steps",
        form="open",
        ge=1,
    )
    total_train_batch_size: int = recipe_field(
        32,
        description="Rows per optimizer step over all devices; gradient accumulation steps are derived from it.",
        unit="rows",
        form="open",
        ge=1,
    )
    max_per_device_train_batch_size: int = recipe_field(
        8,
        description="Maximum number of rows per device and forward pass; increase it until memory is full.",
        unit="rows",
        ge=1,
    )
    learning_rate: float = recipe_field(2e-4, description="Peak learning rate.", form="open", gt=0, le=1)
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = recipe_field(
        "linear",
        description="Learning rate schedule after the warmup.",
        labels={
            "linear": "linear: linear decay to 0",
            "cosine": "cosine: half-cosine decay to 0",
            "constant": "constant: no decay, no warmup",
            "constant_with_warmup": "constant_with_warmup: no decay after the warmup",
        },
    )
    warmup_ratio: float | None = recipe_field(
        None,
        description="Fraction of the steps for a linear warmup from 0; defaults to 0.03. Excludes warmup_steps.",
        ge=0,
        lt=1,
    )
    warmup_steps: int | None = recipe_field(
        None,
        description="Number of steps for a linear warmup from 0. Excludes warmup_ratio.",
        unit="optimizer steps",
        ge=0,
    )
    weight_decay: float = recipe_field(0.0, description="Decoupled weight decay of AdamW.", ge=0, lt=1)
    max_grad_norm: float = recipe_field(1.0, description="Maximum gradient norm for clipping.", gt=0)
    seed: int = recipe_field(42, description="Seed of initialization, data order and dropout.", ge=0, le=2**32 - 1)
    precision: Literal["float32", "bfloat16", "float16"] = recipe_field(
        "float32",
        description="Data type of the forward and backward pass; the optimizer state is always float32.",
        labels={
            "float32": "float32: exact",
            "bfloat16": "bfloat16: faster, most accelerators",
            "float16": "float16: faster, with loss scaling, older GPUs",
        },
    )
    gradient_checkpointing: bool = recipe_field(
        False, description="Recompute activations in the backward pass: less memory, about a third slower."
    )
    logging_steps: int = recipe_field(10, description="Steps between two log entries.", unit="optimizer steps", ge=1)
    save_steps: int = recipe_field(100, description="Steps between two checkpoints.", unit="optimizer steps", ge=1)
    save_total_limit: int = recipe_field(2, description="Number of most recent checkpoints to keep.", ge=1)
    eval_steps: int | None = recipe_field(
        None,
        description="Steps between two validations; leave empty to disable validation.",
        unit="optimizer steps",
        ge=1,
    )
    load_best_model_at_end: bool = recipe_field(
        False, description="Use the checkpoint with the lowest validation loss instead of the last one."
    )
    early_stopping_patience: int | None = recipe_field(
        None,
        description="Validations without improvement before training stops; leave empty to disable early stopping.",
        ge=1,
    )

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.num_train_epochs is not None and self.max_steps is not None:
            raise ValueError("training.num_train_epochs and training.max_steps exclude each other: remove one")
        return self

    @model_validator(mode="after")
    def _one_warmup(self) -> Self:
        if self.warmup_ratio is not None and self.warmup_steps is not None:
            raise ValueError("training.warmup_ratio and training.warmup_steps exclude each other: remove one")
        return self

    @model_validator(mode="after")
    def _validation_has_an_interval(self) -> Self:
        for name in ("load_best_model_at_end", "early_stopping_patience"):
            if getattr(self, name) and self.eval_steps is None:
                raise ValueError(
                    f"training.{name} requires a validation loss: set training.eval_steps or remove training.{name}"
                )
        if self.load_best_model_at_end and self.eval_steps and self.save_steps % self.eval_steps:
            raise ValueError(
                f"training.load_best_model_at_end requires training.save_steps ({self.save_steps}) to be a multiple of "
                f"training.eval_steps ({self.eval_steps}): change one of them"
            )
        return self

    @property
    def epochs(self) -> float | None:
        """Passes over the data; None if max_steps is set."""
        if self.max_steps is not None:
            return None
        return self.num_train_epochs if self.num_train_epochs is not None else 1.0

    @property
    def warmup(self) -> float:
        """`warmup_steps` of transformers 5: a fraction of the steps below 1, otherwise a number of steps."""
        if self.warmup_steps is not None:
            return self.warmup_steps
        return DEFAULT_WARMUP_RATIO if self.warmup_ratio is None else self.warmup_ratio
