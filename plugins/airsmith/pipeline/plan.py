"""The plan of a run: the recipe's stages on its backend, their order, and how the batch is divided."""

from __future__ import annotations

from airsmith.backends import Backend, get_backend
from airsmith.backends.servers import server_of
from airsmith.contracts.spec import BatchPlan, ParallelPlan, Plan, StagePlan
from airsmith.contracts.stages import TRAINING, has_sharded_output
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.recipe import Recipe
from airsmith.settings import Settings

LIGHT_IMAGE = "cpu"
"""The image without torch, for stages that copy files."""

_ALWAYS = ("mirror_model", "mirror_dataset", "tokenize", "train", "merge", "evaluate", "register")
_WHEN_SERVED = ("deploy", "smoke_test")
_ORDER = (
    "mirror_model", "mirror_dataset", "tokenize", "compile", "train", "compare_trials", "consolidate", "merge",
    "evaluate", "register", "deploy", "smoke_test",
)  # fmt: skip


def stage_names(recipe: Recipe, *, is_sweep: bool = False) -> tuple[str, ...]:
    """The stages of a recipe, in an order in which they can run one by one.

    :param is_sweep: whether the run trains the trials of the recipe's sweep.
    :raises AirsmithError: `bad_recipe` if no backend of that name exists.
    """
    wanted = {
        *_ALWAYS,
        *get_backend(recipe.backend.name).optional_stages,
        *(("consolidate",) if has_sharded_output(recipe) else ()),
        *(("compare_trials",) if is_sweep else ()),
        *(_WHEN_SERVED if recipe.serve.enabled else ()),
    }
    return tuple(stage for stage in _ORDER if stage in wanted)


def make_plan(recipe: Recipe, *, is_sweep: bool = False) -> Plan:
    """Make the plan of a run.

    :param is_sweep: whether the run trains the trials of the recipe's sweep.
    :raises AirsmithError: `bad_recipe` if the backend cannot run the recipe, the batch cannot be divided, or no engine
        can serve the model as requested.
    """
    backend = get_backend(recipe.backend.name)
    backend.check(recipe)
    _check_evaluation(recipe)
    if recipe.serve.enabled:
        server_of(recipe)  # Raises before the training instead of after it.
    return Plan(
        backend=backend.name,
        stages=tuple(_plan_stage(stage, recipe, backend) for stage in stage_names(recipe, is_sweep=is_sweep)),
        batch=solve_batch(recipe, backend.data_parallel_size(recipe), backend.parallel(recipe)),
        parallel=backend.parallel(recipe),
    )


def check_nodes(recipe: Recipe, settings: Settings) -> None:
    """Check that a recipe with several nodes has a cluster.

    :raises AirsmithError: `bad_recipe`.
    """
    if recipe.backend.nodes > 1 and not settings.uses_cluster:
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"backend.nodes is {recipe.backend.nodes}, but the runtime `local` trains on this machine alone.",
            "Set backend.nodes to 1 and backend.devices to its number of devices, or run the recipe on a cluster.",
        )


def _check_evaluation(recipe: Recipe) -> None:
    """Check that the backend of evaluate can evaluate.

    :raises AirsmithError: `bad_recipe`.
    """
    backend = get_backend(recipe.evaluate_backend)
    if not backend.evaluates:
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"evaluate.backend is {backend.name!r}, which cannot evaluate: it would compile transformers' models again "
            "for every length.",
            "Remove evaluate.backend (its default is 'cpu'), or set it to 'cuda' or 'rocm'.",
        )


def solve_batch(recipe: Recipe, data_parallel_size: int, parallel: ParallelPlan | None = None) -> BatchPlan:
    """Divide the total batch: the largest possible batch per device, and gradient accumulation for the rest.

    :param parallel: how devices share the model, for the message; None if each device has its own share of the batch.
    :raises AirsmithError: `bad_recipe` if it cannot be divided evenly, proposing the nearest batches that can.
    """
    total = recipe.training.total_train_batch_size
    if total % data_parallel_size:
        below = total - total % data_parallel_size
        nearest = [str(batch) for batch in (below, below + data_parallel_size) if batch > 0]
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"training.total_train_batch_size {total} is not divisible by "
            f"{_shares(recipe, data_parallel_size, parallel)}.",
            f"Use {' or '.join(nearest)}.",
        )
    share = total // data_parallel_size
    largest = min(share, recipe.training.max_per_device_train_batch_size)
    per_device = next(size for size in range(largest, 0, -1) if share % size == 0)
    return BatchPlan(
        per_device_train_batch_size=per_device,
        gradient_accumulation_steps=share // per_device,
        data_parallel_size=data_parallel_size,
    )


def _shares(recipe: Recipe, data_parallel_size: int, parallel: ParallelPlan | None) -> str:
    """The number of shares of each batch, in words."""
    devices = recipe.backend.devices * recipe.backend.nodes
    if parallel is None or parallel.processes_per_node == recipe.backend.devices:
        return f"{data_parallel_size} devices (backend.devices × backend.nodes)"
    cores, group = parallel.processes_per_node * recipe.backend.nodes, parallel.tensor * parallel.pipeline
    sizes = f"tensor parallel {parallel.tensor} × pipeline parallel {parallel.pipeline}"
    shared = f", of which {group} ({sizes}) share one model" if group > 1 else ""
    return f"the data-parallel size {data_parallel_size}: {devices} devices have {cores} cores{shared}"


def _plan_stage(stage: str, recipe: Recipe, backend: Backend) -> StagePlan:
    if stage in TRAINING:
        return _on_backend(stage, backend, variant="-ray" if is_ray(recipe) else "")
    if stage == "evaluate":
        return _on_backend(stage, get_backend(recipe.evaluate_backend))
    if stage in ("tokenize", "compare_trials"):
        return StagePlan(stage=stage, image=get_backend("cpu").train_image)
    return StagePlan(stage=stage, image=LIGHT_IMAGE, runs_in_worker=stage == "deploy")


def is_ray(recipe: Recipe) -> bool:
    """Whether Ray starts the training's processes: the training's image then contains Ray."""
    return recipe.backend.nodes > 1 and recipe.backend.job == "rayjob"


def _on_backend(stage: str, backend: Backend, variant: str = "") -> StagePlan:
    image = backend.train_image + variant
    return StagePlan(stage=stage, image=image, backend=backend.name, needs_accelerator=backend.has_devices)
