"""The card of a registered model: what it is, where it came from, how good it is, how to load it."""

from __future__ import annotations

import yaml

from airsmith.contracts.spec import RunSpec
from airsmith.registry import ModelVersion

_TEMPLATE = """\
# {name} {number}

{description}

| | |
|---|---|
| base model | `{base}` at `{base_revision}` |
| dataset | `{dataset}` at `{dataset_revision}` |
| method | {method} |
| run | `{dag_id}` / `{run_id}` |
| recipe | `{recipe_file}`, digest `{recipe_digest}`{bundle} |
| changed for this run | {changed} |
| made with | {versions} |
| licence | that of the base model and of the data: see there |

## Held-out examples

| | base | tuned |
|---|---|---|
{metrics}

## How to load it

The merged weights lie in the store at `{model}`; copy that folder's content to `model/`:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("model")
tokenizer = AutoTokenizer.from_pretrained("model")
```

or serve it: `vllm serve model --served-model-name {name}`.

## Recipe

```yaml
{recipe}```
"""

_METRICS = (("exact_match", "exact match"), ("token_accuracy", "token accuracy"), ("loss", "loss"))


def model_card(version: ModelVersion, spec: RunSpec) -> str:
    """The card as Markdown. It holds references to secrets at most, never one."""
    recipe = spec.recipe
    return _TEMPLATE.format(
        name=version.name,
        number=version.version,
        description=recipe.description or f"{recipe.model.id} fine-tuned on {recipe.dataset.id}.",
        base=recipe.model.id,
        base_revision=recipe.model.revision,
        dataset=recipe.dataset.id,
        dataset_revision=recipe.dataset.revision,
        method=recipe.method.name,
        dag_id=spec.dag_id,
        run_id=spec.run_id,
        recipe_file=spec.recipe_file,
        recipe_digest=spec.recipe_digest[:12],
        bundle=f", commit `{spec.bundle_version}`" if spec.bundle_version else "",
        changed=", ".join(f"`{field}`" for field in spec.changed_fields) or "nothing",
        versions=", ".join(f"{name} {number}" for name, number in version.versions.items()),
        metrics="\n".join(_metric_row(version, key, label) for key, label in _METRICS),
        model=version.model,
        recipe=yaml.safe_dump(recipe.model_dump(mode="json", exclude_defaults=True), sort_keys=False),
    )


def _metric_row(version: ModelVersion, key: str, label: str) -> str:
    values = [version.metrics.get(f"{key}_{who}") for who in ("base", "tuned")]
    shown = [f"{value:.4g}" if isinstance(value, (int, float)) else "–" for value in values]
    return f"| {label} | {' | '.join(shown)} |"
