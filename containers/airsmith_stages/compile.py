"""Stage `compile`: compiles the graphs of a training ahead of it, with the training's launch, and keeps their cache.

This module runs in each launched process: it takes some steps, of which only the graphs are recorded. The launcher
runs the processes inside the tool that compiles the recorded graphs, and publishes the cache.
"""

from __future__ import annotations

from airsmith.contracts.cache import Output
from airsmith_stages.devices import get_device
from airsmith_stages.stage_context import StageContext


def run(context: StageContext) -> Output:
    """Take the training's first steps on synthetic rows."""
    device = get_device(context.spec.recipe.backend.name)
    device.prepare()
    # The module imports torch, which must happen after `prepare`.
    from airsmith_stages.neuron.graph_extraction import extract_graphs

    extract_graphs(context, device)
    return context.output
