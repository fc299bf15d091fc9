"""Library versions of the stages: from their environment's metadata, on a cluster from the images' settings."""

from __future__ import annotations

from pathlib import Path

from airsmith.contracts.spec import Plan
from airsmith.contracts.stages import STAGES, public_version, toolchain_for
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.process.interpreter import installed_versions
from airsmith.recipe import Recipe
from airsmith.settings import Settings


def toolchains_of(plan: Plan, recipe: Recipe, settings: Settings) -> dict[str, dict[str, str]]:
    """Versions of the distributions that determine results, per image name of the plan.

    :raises AirsmithError: `not_found`, naming what is missing where.
    """
    if settings.uses_cluster:
        return image_toolchains(plan, recipe, settings)
    return local_toolchains(plan, recipe, settings.stages_python())


def image_toolchains(plan: Plan, recipe: Recipe, settings: Settings) -> dict[str, dict[str, str]]:
    """The versions that `make images` has written to the settings of each image."""
    toolchains: dict[str, dict[str, str]] = {}
    for stage in plan.stages:
        needed = toolchain_for(STAGES[stage.stage], recipe)
        listed = settings.image(stage.image).toolchain if needed else {}
        missing = [name for name in needed if name not in listed]
        if missing:
            raise AirsmithError(
                ErrorKind.NOT_FOUND,
                f"Stage {stage.stage} needs {', '.join(missing)}, "
                f"but kubernetes.images.{stage.image}.toolchain lists no version of it.",
                f"Rebuild the image: make images IMAGES={stage.image}",
            )
        toolchains.setdefault(stage.image, {}).update({name: listed[name] for name in needed})
    return toolchains


def local_toolchains(plan: Plan, recipe: Recipe, stages_python: Path) -> dict[str, dict[str, str]]:
    """Versions of the distributions that determine results, per image of the plan; locally all images are the same.

    :param stages_python: the interpreter of the stages' virtual environment.
    :raises AirsmithError: `not_found`, naming the distribution that is not installed there.
    """
    installed = installed_versions(stages_python)
    toolchains: dict[str, dict[str, str]] = {}
    for stage in plan.stages:
        needed = toolchain_for(STAGES[stage.stage], recipe)
        missing = [name for name in needed if name not in installed]
        if missing:
            raise AirsmithError(
                ErrorKind.NOT_FOUND,
                f"Stage {stage.stage} needs {', '.join(missing)}, which {stages_python} does not have.",
                "Run `make setup`, or set AIRSMITH_LOCAL__STAGES_PYTHON to an interpreter that has airsmith-stages.",
            )
        toolchains.setdefault(stage.image, {}).update({name: public_version(installed[name]) for name in needed})
    return toolchains
