"""What is trained and how, in the names of peft's LoraConfig and transformers' TrainingArguments where they exist."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import field_validator, model_validator
from typing_extensions import Self

from airsmith.recipe.fields import RecipeSection, recipe_field

MethodName = Literal["lora", "qlora", "full"]

DEFAULT_WARMUP_RATIO = 0.03


class Method(RecipeSection):
    """Which parameters are trained: low-rank adapters, the same on a 4-bit base, or all of them."""

    name: MethodName = recipe_field(
        "lora",
        description="`lora`, `qlora` (LoRA on a 4-bit base) or `full` (every parameter).",
        form="open",
        labels={
            "lora": "LoRA: low-rank adapters",
            "qlora": "QLoRA: LoRA on a 4-bit base",
            "full": "Full: every parameter",
        },
    )
    r: int = recipe_field(16, description="Rank of the LoRA matrices.", form="open", ge=1, le=1024)
    lora_alpha: float = recipe_field(
        32, description="LoRA's scaling numerator: the delta is scaled by alpha / r.", form="open", gt=0
    )
    lora_dropout: float = recipe_field(0.0, description="Dropout in front of the LoRA matrices.", ge=0, lt=1)
    target_modules: tuple[str, ...] = recipe_field(
        ("all-linear",),
        description="Module names that get LoRA matrices; `all-linear` is every linear layer but the output head.",
        min_length=1,
    )
    rank_pattern: dict[str, int] = recipe_field(
        description="Rank per module name or regular expression, where it differs from r.", default_factory=dict
    )
    alpha_pattern: dict[str, float] = recipe_field(
        description="Alpha per module name or regular expression, where it differs from lora_alpha.",
        default_factory=dict,
    )
    use_rslora: bool = recipe_field(
        False, description="Scale by alpha / sqrt(r) (rank-stabilised LoRA) instead of alpha / r."
    )
    use_dora: bool = recipe_field(
        False, description="Weight-decomposed LoRA: the direction by LoRA, the magnitude by a vector."
    )
    modules_to_save: tuple[str, ...] = recipe_field(
        (), description="Modules trained in full and saved with the adapter, for example `lm_head`."
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
                f"method.name is 'full', which trains every parameter, but method.{changed[0]} configures LoRA: "
                f"remove {', '.join(changed)} or set method.name to 'lora'"
            )
        return self


class Training(RecipeSection):
    """The optimisation, independent of how many devices share it."""

    num_train_epochs: float | None = recipe_field(
        None,
        description="Passes over the training split; 1 unless max_steps is set. Excludes max_steps.",
        unit="epochs",
        form="open",
        gt=0,
    )
    max_steps: int | None = recipe_field(
        None,
        description="Optimizer steps in all. Excludes num_train_epochs.",
        unit="optimizer steps",
        form="open",
        ge=1,
    )
    total_train_batch_size: int = recipe_field(
        32,
        description="Rows per optimizer step over all devices; accumulation is solved from it.",
        unit="rows",
        form="open",
        ge=1,
    )
    max_per_device_train_batch_size: int = recipe_field(
        8, description="Most rows that one device takes at once; raise it until memory is full.", unit="rows", ge=1
    )
    learning_rate: float = recipe_field(2e-4, description="Peak learning rate.", form="open", gt=0, le=1)
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = recipe_field(
        "linear",
        description="How the learning rate falls after the warm-up.",
        labels={
            "linear": "linear: in a straight line to 0",
            "cosine": "cosine: along a half cosine to 0",
            "constant": "constant: not at all, and no warm-up",
            "constant_with_warmup": "constant_with_warmup: not at all, after the warm-up",
        },
    )
    warmup_ratio: float | None = recipe_field(
        None,
        description="Share of the steps in which the learning rate rises from 0; 0.03 unless warmup_steps is set. "
        "Excludes warmup_steps.",
        ge=0,
        lt=1,
    )
    warmup_steps: int | None = recipe_field(
        None,
        description="Steps in which the learning rate rises from 0. Excludes warmup_ratio.",
        unit="optimizer steps",
        ge=0,
    )
    weight_decay: float = recipe_field(0.0, description="Decoupled weight decay of AdamW.", ge=0, lt=1)
    max_grad_norm: float = recipe_field(1.0, description="Gradient norm above which gradients are scaled down.", gt=0)
    seed: int = recipe_field(42, description="Seed of initialisation, data order and dropout.", ge=0, le=2**32 - 1)
    precision: Literal["float32", "bfloat16", "float16"] = recipe_field(
        "float32",
        description="Data type of the forward and backward pass; the optimizer's state stays float32.",
        labels={
            "float32": "float32: exact",
            "bfloat16": "bfloat16: faster, for most accelerators",
            "float16": "float16: faster, with loss scaling, for older GPUs",
        },
    )
    gradient_checkpointing: bool = recipe_field(
        False, description="Recompute activations in the backward pass: less memory, about a third slower."
    )
    logging_steps: int = recipe_field(10, description="Steps between two logged losses.", unit="optimizer steps", ge=1)
    save_steps: int = recipe_field(100, description="Steps between two checkpoints.", unit="optimizer steps", ge=1)
    save_total_limit: int = recipe_field(2, description="Newest checkpoints that are kept.", ge=1)
    eval_steps: int | None = recipe_field(
        None, description="Steps between two validations; none when empty.", unit="optimizer steps", ge=1
    )
    load_best_model_at_end: bool = recipe_field(
        False, description="End with the checkpoint of the lowest validation loss instead of the last one."
    )
    early_stopping_patience: int | None = recipe_field(
        None, description="Validations without a lower loss after which training stops; never when empty.", ge=1
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
                    f"training.{name} needs a validation loss: set training.eval_steps or remove training.{name}"
                )
        if self.load_best_model_at_end and self.eval_steps and self.save_steps % self.eval_steps:
            raise ValueError(
                f"training.load_best_model_at_end needs training.save_steps ({self.save_steps}) to be a multiple of "
                f"training.eval_steps ({self.eval_steps}): change one of them"
            )
        return self

    @property
    def epochs(self) -> float | None:
        """Passes over the data, or None where max_steps decides."""
        if self.max_steps is not None:
            return None
        return self.num_train_epochs if self.num_train_epochs is not None else 1.0

    @property
    def warmup(self) -> float:
        """The warm-up, as transformers 5 takes it: below 1 the share of the steps, from 1 on their number."""
        if self.warmup_steps is not None:
            return self.warmup_steps
        return DEFAULT_WARMUP_RATIO if self.warmup_ratio is None else self.warmup_ratio
