"""The recipe: model, dataset, method and infrastructure of a fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError, model_validator
from typing_extensions import Self

from airsmith.recipe.fields import RecipeSection, recipe_field
from airsmith.recipe.operation import (
    ADAPTER_RANKS,
    KUBERNETES_NAME,
    NEURON_BACKENDS,
    Backend,
    BackendName,
    Evaluate,
    Secrets,
    Serve,
)
from airsmith.recipe.sources import DatasetSource, ModelSource
from airsmith.recipe.sweep import Sweep
from airsmith.recipe.training import Method, Training

ON_DATASET_UPDATE = "dataset_updated"
"""Value of `schedule` that starts a run after each update of the dataset's asset."""


class Recipe(RecipeSection):
    """A fine-tuning, from base model to endpoint. File, trigger form, CLI and reference use the same field names."""

    name: str = recipe_field(
        description="Name of the tuned model in the registry; defaults to the file name without extension.",
        form="absent",
        pattern=KUBERNETES_NAME,
    )
    description: str = recipe_field(
        "", description="One or two sentences for the DAG's page and the model card.", form="absent"
    )
    schedule: str | None = recipe_field(
        None,
        description="Schedule of runs: a cron expression or `dataset_updated`; leave empty for manual runs only.",
        form="absent",
        examples=["0 3 * * 1", ON_DATASET_UPDATE],
    )
    model: ModelSource = recipe_field(description="The base model.")
    dataset: DatasetSource = recipe_field(description="The examples.")
    method: Method = recipe_field(description="What is trained.", default_factory=Method)
    training: Training = recipe_field(description="The optimization.", default_factory=Training)
    backend: Backend = recipe_field(description="The accelerator.", default_factory=Backend, form="absent")
    evaluate: Evaluate = recipe_field(description="The comparison of base and tuned model.", default_factory=Evaluate)
    serve: Serve = recipe_field(description="The endpoint.", default_factory=Serve)
    secrets: Secrets = recipe_field(description="References to secrets.", default_factory=Secrets, form="absent")
    sweep: Sweep | None = recipe_field(
        None,
        description="Hyperparameter search, which runs as a second DAG, `sweep_<file name>`.",
        form="absent",
    )

    @model_validator(mode="after")
    def _has_held_out_examples(self) -> Self:
        if not self.dataset.has_validation:
            raise ValueError(
                "dataset.validation_split and dataset.validation_fraction are both empty, but the evaluation requires "
                "held-out examples: set one of them, for example validation_fraction: 0.05"
            )
        return self

    @model_validator(mode="after")
    def _adapter_mode_is_servable(self) -> Self:
        if self.serve.mode != "adapter":
            return self
        if self.method.name == "full":
            raise ValueError(
                "serve.mode is 'adapter', but method.name 'full' trains no adapter: set serve.mode to 'merged'"
            )
        if self.serve.engine == "transformers":
            raise ValueError(
                "serve.mode is 'adapter', which serve.engine 'transformers' does not support: set it to 'vllm'"
            )
        for name in ("modules_to_save", "use_dora"):
            if getattr(self.method, name):
                raise ValueError(
                    f"serve.mode is 'adapter', but no engine supports method.{name}: set serve.mode to 'merged'"
                )
        rank = max(self.method.r, *self.method.rank_pattern.values(), 0)
        if rank > ADAPTER_RANKS[-1]:
            raise ValueError(
                f"serve.mode is 'adapter', but method.r {rank} exceeds vLLM's maximum of {ADAPTER_RANKS[-1]}: decrease "
                "it, or set serve.mode to 'merged'"
            )
        return self

    @model_validator(mode="after")
    def _streamed_code_is_not_run(self) -> Self:
        if self.serve.load == "stream" and self.model.trust_remote_code:
            raise ValueError(
                "serve.load is 'stream', which verifies no hashes, but model.trust_remote_code runs code from the "
                "store: set serve.load to 'copy'"
            )
        return self

    @model_validator(mode="after")
    def _trials_are_recipes(self) -> Self:
        if self.sweep is None:
            return self
        interval = self.training.eval_steps
        if interval is None:
            raise ValueError("sweep compares validation losses: set training.eval_steps")
        for step in self.sweep.rungs:
            if step % interval:
                raise ValueError(
                    f"sweep.rungs contains {step}, which is not a multiple of training.eval_steps ({interval}): "
                    f"use {max(interval, step - step % interval)}"
                )
            if self.training.max_steps is not None and step >= self.training.max_steps:
                raise ValueError(
                    f"sweep.rungs contains {step}, but training.max_steps is {self.training.max_steps}: use a smaller "
                    "number"
                )
        for number, values in enumerate(self.sweep.values(), start=1):
            try:
                self.trial(values)
            except ValidationError as error:
                described = ", ".join(f"{key} {value!r}" for key, value in values.items())
                mistake = error.errors()[0]
                what = f"{'.'.join(str(part) for part in mistake['loc'])} {mistake['msg']}"
                raise ValueError(f"sweep trial {number} ({described}) is not a valid recipe: {what}") from None
        return self

    def trial(self, values: Mapping[str, Any]) -> Recipe:
        """The recipe of a trial of the sweep.

        :param values: the trial's values by dotted key.
        :raises ValidationError: if the values make the recipe invalid.
        """
        content = self.model_dump(mode="json", exclude={"sweep"})
        for key, value in values.items():
            group, name = key.split(".")
            content[group][name] = value
        return Recipe.model_validate(content)

    @property
    def endpoint_name(self) -> str:
        """Name of the endpoint that runs of this recipe deploy to."""
        return self.serve.name or self.name

    @property
    def evaluate_backend(self) -> BackendName:
        """Accelerator family of the evaluation."""
        if self.evaluate.backend is not None:
            return self.evaluate.backend
        return "cpu" if self.backend.name in NEURON_BACKENDS else self.backend.name
