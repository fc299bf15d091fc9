"""The model card of a registered model: description, provenance, metrics, and how to load it."""

from __future__ import annotations

import json
import shlex
import textwrap
from dataclasses import dataclass
from typing import Any

import yaml

from airsmith.contracts.spec import RunSpec
from airsmith.recipe import Recipe
from airsmith.recipe.dotted_keys import flatten
from airsmith.recipe.sources import source_kind
from airsmith.registry import ModelVersion

UNKNOWN_LICENSE = "unknown"

_TEMPLATE = """\
---
{front_matter}---

# {name} {number}

{description}

| | |
|---|---|
| base model | `{base}` at `{base_revision}` |
| dataset | `{dataset}` at `{dataset_revision}`, digest `{dataset_digest}` |
| method | {method} |{restarts}
| run | `{dag_id}` / `{run_id}` |
| recipe | `{recipe_file}`, digest `{recipe_digest}`{bundle} |
| changed for this run | {changed} |
| made with | {versions} |
| license | {license} |

## Metrics on {examples} held-out examples

| | base | tuned |
|---|---|---|
{metrics}

## How to load it

{copying}

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = {folder_in_python}
model = AutoModelForCausalLM.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
```

vLLM serves the same folder:

```shell
python -m vllm.entrypoints.openai.api_server --model {folder_in_shell} --served-model-name {name}
```

## Recipe

````yaml
{recipe}````
"""

_MAX_CELL_CHARACTERS = 80
_METRICS = (("exact_match", "exact match"), ("token_accuracy", "token accuracy"), ("loss", "loss"))


@dataclass(frozen=True)
class Provenance:
    """Facts for the card that version and spec do not contain.

    :param dataset_digest: digest of the mirrored dataset.
    :param base_license: license identifier in the base model's card.
    :param weights_uri: folder with the merged model's files.
    :param warm_restarts: number of times that training resumed without the optimizer's state.
    """

    dataset_digest: str
    base_license: str
    weights_uri: str
    warm_restarts: int = 0


def model_card(version: ModelVersion, spec: RunSpec, provenance: Provenance) -> str:
    """The card as Markdown. It contains only references to secrets, never their values."""
    recipe = spec.recipe
    folder, copying = _how_to_copy(provenance.weights_uri)
    return _TEMPLATE.format(
        front_matter=_yaml(_front_matter(recipe, provenance)),
        name=version.name,
        number=version.version,
        description=recipe.description or f"{recipe.model.id} fine-tuned on {recipe.dataset.id}.",
        base=recipe.model.id,
        base_revision=recipe.model.revision,
        dataset=recipe.dataset.id,
        dataset_revision=recipe.dataset.revision,
        dataset_digest=provenance.dataset_digest[:12],
        method=recipe.method.name,
        restarts=_restarts(provenance.warm_restarts),
        dag_id=spec.dag_id,
        run_id=spec.run_id,
        recipe_file=spec.recipe_file,
        recipe_digest=spec.recipe_digest[:12],
        bundle=f", commit `{spec.bundle_version}`" if spec.bundle_version else "",
        changed=_changed_fields(spec) or "nothing",
        versions=", ".join(f"{name} {number}" for name, number in version.versions.items()),
        license=_license_note(provenance.base_license),
        examples=version.metrics.get("examples", "the"),
        metrics="\n".join(_metric_row(version, key, label) for key, label in _METRICS),
        folder_in_python=json.dumps(folder, ensure_ascii=False),
        folder_in_shell=shlex.quote(folder),
        copying=copying,
        recipe=_yaml(recipe.model_dump(mode="json", exclude_defaults=True)),
    )


def license_of(base_card: str) -> str:
    """The license in the front matter of a model's `README.md`; `unknown` without one."""
    parts = base_card.split("---\n", 2)
    if len(parts) < 3 or parts[0].strip():
        return UNKNOWN_LICENSE
    try:
        front_matter = yaml.safe_load(parts[1])
    except yaml.YAMLError:
        return UNKNOWN_LICENSE
    license = front_matter.get("license") if isinstance(front_matter, dict) else None
    return license if isinstance(license, str) else UNKNOWN_LICENSE


def _front_matter(recipe: Recipe, provenance: Provenance) -> dict[str, Any]:
    """Metadata for the Hub, so that the folder can be uploaded with its card."""
    known = {} if provenance.base_license == UNKNOWN_LICENSE else {"license": provenance.base_license}
    on_hub = {
        key: value
        for key, value in (("base_model", recipe.model.id), ("datasets", recipe.dataset.id))
        if source_kind(value) == "hub"
    }
    return {**known, **on_hub, "library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["airsmith"]}


def _license_note(base_license: str) -> str:
    if base_license == UNKNOWN_LICENSE:
        return "unknown: the base model's card names none; check the licenses of base model and dataset"
    return f"{base_license} (the base model's); check the dataset's license as well"


def _restarts(count: int) -> str:
    """A row for trainings that are not bitwise reproducible because they were interrupted."""
    if not count:
        return ""
    times = "once" if count == 1 else f"{count} times"
    return f"\n| interrupted | {times}: training resumed by a warm restart, which resets the optimizer's state |"


def _how_to_copy(weights_uri: str) -> tuple[str, str]:
    """The folder to load from, and how to get the files there."""
    if weights_uri.startswith("file://"):
        folder = weights_uri.removeprefix("file://")
        return folder, "The merged weights are on this machine's disk."
    return "model", f"Copy the merged weights: `aws s3 sync {shlex.quote(weights_uri)} model`"


def _changed_fields(spec: RunSpec) -> str:
    values = flatten(spec.recipe.model_dump(mode="json"))
    return ", ".join(f"`{field}: {_in_a_cell(values.get(field, '…'))}`" for field in spec.changed_fields)


def _in_a_cell(value: Any) -> str:
    """A value as inline code in a table cell: one short line, with characters escaped that end a cell or the code."""
    line = textwrap.shorten(str(value), _MAX_CELL_CHARACTERS, placeholder=" …")
    return line.replace("`", "'").replace("|", "\\|")


def _metric_row(version: ModelVersion, key: str, label: str) -> str:
    values = [version.metrics.get(f"{key}_{name}") for name in ("base", "tuned")]
    shown = [f"{value:.4g}" if isinstance(value, (int, float)) else "–" for value in values]
    return f"| {label} | {' | '.join(shown)} |"


def _yaml(content: dict[str, Any]) -> str:
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
