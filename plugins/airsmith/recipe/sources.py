"""Recipe sections for the base model and the dataset."""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator, model_validator
from typing_extensions import Self

from airsmith.recipe.fields import RecipeSection, recipe_field

SourceKind = Literal["hub", "store", "registry"]

PICKLED_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
SHARD_SIZE = r"^[1-9][0-9]{0,5}(MB|GB)$"
OTHER_FRAMEWORKS = ("*.h5", "*.msgpack", "*.onnx", "*.gguf", "onnx/*", "original/*")


def source_kind(source_id: str) -> SourceKind:
    """Whether an id refers to the Hub, to a folder in an object store or to a version in the registry."""
    if "://" in source_id:
        return "store"
    if source_id.startswith("models/") and source_id.count("/") == 2:
        return "registry"
    return "hub"


class ModelSource(RecipeSection):
    """The base model to fine-tune."""

    id: str = recipe_field(
        description="Hub id, store URI (`s3://bucket/prefix`, `file:///dir`) or model version (`models/<name>/<n>`).",
        form="open",
        min_length=1,
        examples=["HuggingFaceTB/SmolLM2-135M-Instruct", "s3://models/llama-3.1-8b", "models/ticket-triage/3"],
    )
    revision: str = recipe_field(
        "main",
        description="Branch, tag or commit on the Hub; each run resolves it to a commit.",
        form="open",
        min_length=1,
    )
    exclude: tuple[str, ...] = recipe_field(
        PICKLED_WEIGHTS + OTHER_FRAMEWORKS,
        description="Globs of files to skip. Pickled weights are always rejected.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = recipe_field(
        "auto",
        description="Data type of the loaded weights; `auto` uses the checkpoint's.",
        labels={
            "auto": "auto: as in the checkpoint",
            "float32": "float32: exact, 4 bytes per weight",
            "bfloat16": "bfloat16: float32's range, 2 bytes per weight",
            "float16": "float16: 2 bytes per weight, may overflow",
        },
    )
    max_shard_size: str = recipe_field(
        "5GB",
        description="Maximum size of a weight file, for example `5GB` (1 GB = 10⁹ bytes) or `500MB`.",
        pattern=SHARD_SIZE,
    )
    trust_remote_code: bool = recipe_field(
        False, description="Allow stages to run Python code from the model's repository."
    )

    @property
    def max_shard_bytes(self) -> int:
        """`max_shard_size` in bytes."""
        return int(self.max_shard_size[:-2]) * (10**9 if self.max_shard_size.endswith("GB") else 10**6)

    @field_validator("id")
    @classmethod
    def _is_a_known_source(cls, value: str) -> str:
        return _checked_source(value)


class DatasetSource(RecipeSection):
    """The examples, and their conversion to tokens."""

    id: str = recipe_field(
        description="Hub id, or store URI (`s3://bucket/prefix`, `file:///dir`) of a folder.",
        form="open",
        min_length=1,
        examples=["databricks/databricks-dolly-15k", "s3://data/tickets"],
    )
    revision: str = recipe_field(
        "main",
        description="Branch, tag or commit on the Hub; each run resolves it to a commit.",
        form="open",
        min_length=1,
    )
    subset: str | None = recipe_field(
        None, description="Configuration of the dataset (`name` in `datasets.load_dataset`)."
    )
    split: str = recipe_field("train", description="Split to train on.", min_length=1)
    format: Literal["messages", "prompt-completion", "instruction"] = recipe_field(
        "messages",
        description="Shape of an example: a list of chat messages, a prompt with its completion, or named columns.",
        labels={
            "messages": "messages: a list of chat messages",
            "prompt-completion": "prompt-completion: two texts, no chat template",
            "instruction": "instruction: named columns, see dataset.columns",
        },
    )
    columns: dict[str, str] = recipe_field(
        description="Column names by part of an example, if they differ: `messages`; `prompt`, `completion`; or "
        "`instruction`, `input`, `output`.",
        default_factory=dict,
    )
    chat_template: str | None = recipe_field(
        None,
        description="Jinja chat template, as text or as a file next to the recipe; required if the tokenizer has none. "
        "The tuned model includes it.",
    )
    validation_split: str | None = recipe_field(None, description="Split to validate on. Excludes validation_fraction.")
    validation_fraction: float | None = recipe_field(
        None,
        description="Fraction of the training split to hold out, drawn with `seed`. Excludes validation_split.",
        gt=0,
        lt=1,
    )
    seed: int = recipe_field(
        42, description="Seed of the validation split and of the packing order.", ge=0, le=2**32 - 1
    )
    max_length: int = recipe_field(
        2048, description="Maximum length of a row.", unit="tokens", form="open", ge=8, le=1_048_576
    )
    overflow: Literal["drop", "split", "truncate"] = recipe_field(
        "drop",
        description="Handling of examples longer than max_length; their number is always reported.",
        labels={
            "drop": "drop: leave the example out",
            "split": "split: cut it into several examples",
            "truncate": "truncate: keep its beginning",
        },
    )
    packing: Literal["none", "isolated", "across_samples"] = recipe_field(
        "none",
        description="Packing of several examples into a row: none, or with attention within or across examples.",
        labels={
            "none": "none: one example per row",
            "isolated": "isolated: several per row, each attends only to itself",
            "across_samples": "across_samples: several per row, each also attends to earlier ones",
        },
    )
    max_leakage_fraction: float = recipe_field(
        0.0, description="Maximum fraction of validation examples that also occur in the training split.", ge=0, le=1
    )

    @field_validator("id")
    @classmethod
    def _is_a_known_source(cls, value: str) -> str:
        if source_kind(value) == "registry":
            raise ValueError(f"dataset.id {value!r} refers to a model version: use a Hub id or a store URI")
        return _checked_source(value)

    @model_validator(mode="after")
    def _columns_fit_the_format(self) -> Self:
        parts = COLUMN_PARTS[self.format]
        unknown = sorted(set(self.columns) - set(parts))
        if unknown:
            raise ValueError(
                f"dataset.columns contains {', '.join(unknown)}, which dataset.format {self.format!r} does not use: "
                f"map only {', '.join(parts)}"
            )
        return self

    @model_validator(mode="after")
    def _one_way_to_validate(self) -> Self:
        if self.validation_split is not None and self.validation_fraction is not None:
            raise ValueError("dataset.validation_split and dataset.validation_fraction exclude each other: remove one")
        if self.validation_split == self.split:
            raise ValueError(
                f"dataset.validation_split and dataset.split are both {self.split!r}: "
                "use another split or validation_fraction"
            )
        return self

    @property
    def has_validation(self) -> bool:
        """Whether the recipe holds out examples."""
        return self.validation_split is not None or self.validation_fraction is not None


COLUMN_PARTS = {
    "messages": ("messages",),
    "prompt-completion": ("prompt", "completion"),
    "instruction": ("instruction", "input", "output"),
}
"""Parts of an example by format. `input` may be empty or absent."""


def _checked_source(value: str) -> str:
    kind = source_kind(value)
    if kind == "store" and not value.startswith(("s3://", "file:///")):
        raise ValueError(f"{value!r} is not a supported store: use s3://bucket/prefix or file:///dir")
    if kind == "registry" and not value.rsplit("/", 1)[1].isdigit():
        raise ValueError(f"{value!r} is not a valid model version: use models/<name>/<n>, for example models/demo/3")
    if kind == "hub" and (value.startswith(("/", ".")) or value.count("/") > 1 or " " in value):
        raise ValueError(
            f"{value!r} is neither a Hub id (owner/name) nor a store URI; use file:///dir for a local folder"
        )
    return value
