"""Stage `compile`: the graphs of a training are compiled before it begins, by its own launch, and their cache is kept.

What stands here is what each process does: some steps, of which only the graphs are taken. Whoever launches them does
so inside the tool that compiles what they leave, and publishes the cache.
"""

from __future__ import annotations

from airsmith.contracts.cache import Output
from airsmith_stages.devices import get_device
from airsmith_stages.stage_context import StageContext


def run(context: StageContext) -> Output:
    """Take the training's first steps, on rows that hold nothing."""
    device = get_device(context.spec.recipe.backend.name)
    device.prepare()
    from airsmith_stages.neuron.graph_extraction import (
        extract_graphs,  # It imports torch, and `prepare` has to come first.
    )

    extract_graphs(context, device)
    return context.output
