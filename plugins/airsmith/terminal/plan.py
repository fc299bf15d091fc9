"""`airsmith plan`: the pods, memory and cost of a run before it starts, as tables."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from airsmith.pipeline.memory import GIBIBYTE, MemoryEstimate
from airsmith.pipeline.preview import NodePreview, PodPreview, Preview

UNKNOWN = "unknown"
TIGHT_SHARE = 0.9
"""Share of the available memory above which the estimate's error may decide whether the training fits."""


def print_preview(preview: Preview, console: Console, hours: float | None = None) -> None:
    """Print every pod, the training's estimated and available memory, and the cost.

    :param hours: expected duration of the training.
    """
    console.print(_pod_table(preview))
    console.print()
    if preview.plan.parallel.processes_per_node != preview.recipe.backend.devices:
        console.print(Text(_sharing(preview)), soft_wrap=True)
    if preview.memory is None:
        console.print(Text(f"Memory: {UNKNOWN}. {preview.memory_unknown}"), soft_wrap=True)
    else:
        console.print(_memory_table(preview, preview.memory))
        console.print(_verdict(preview, preview.memory), soft_wrap=True)
    for note in preview.notes:
        console.print(Text(f"Note: {note}", "yellow"), soft_wrap=True)
    for line in _cost_lines(preview, hours):
        console.print(Text(line), soft_wrap=True)


def _pod_table(preview: Preview) -> Table:
    table = Table(title=f"Pods of {preview.recipe.name} on {preview.plan.backend}", box=None, pad_edge=False)
    for heading in ("stage", "image", "cpu", "memory", "disk", "devices", "node selector", "USD/h"):
        table.add_column(heading, overflow="fold", justify="right" if heading in ("cpu", "USD/h") else "left")
    for pod in preview.pods:
        table.add_row(
            _name(preview, pod),
            pod.image,
            pod.resources["cpu"],
            pod.resources["memory"],
            pod.resources.get("ephemeral-storage", ""),
            f"{pod.devices} × {pod.device}" if pod.device else "",
            ", ".join(f"{key}={value}" for key, value in pod.node_selector.items()),
            _price(pod),
        )
    return table


def _sharing(preview: Preview) -> str:
    """How the model and the batch are split over the cores of the training's devices."""
    parallel, data = preview.plan.parallel, preview.plan.batch.data_parallel_size
    cores = parallel.processes_per_node * preview.recipe.backend.nodes
    sizes = f"tensor parallel {parallel.tensor} × pipeline parallel {parallel.pipeline} × data parallel {data}"
    return f"Processes: {cores}, one per core: {sizes}."


def _name(preview: Preview, pod: PodPreview) -> str:
    """The stage; for several nodes, also the number of pods and the job kind."""
    nodes = pod.node.nodes if pod.node is not None else 1
    return pod.stage if nodes == 1 else f"{pod.stage}, {nodes} pods of a {preview.recipe.backend.job}"


def _price(pod: PodPreview) -> str:
    if pod.node is None:
        return ""
    return UNKNOWN if pod.node.usd_per_hour is None else f"{pod.node.usd_per_hour:.2f}"


def _memory_table(preview: Preview, memory: MemoryEstimate) -> Table:
    batch = preview.plan.batch
    rows = {
        "weights": memory.weights,
        "gradients": memory.gradients,
        "AdamW": memory.optimizer,
        "autocast copies": memory.casts,
        f"activations of {batch.per_device_train_batch_size} × {preview.recipe.dataset.max_length} tokens": (
            memory.activations
        ),
        "logits": memory.logits,
    }
    table = Table(box=None, pad_edge=False)
    table.add_column(f"training {memory.trained / 1e6:,.1f} of {memory.parameters / 1e6:,.1f} million parameters")
    table.add_column(f"GiB per {_unit(preview.pod('train'))}", justify="right")
    for what, size_bytes in rows.items():
        if size_bytes:
            table.add_row(what, _gib(size_bytes))
    table.add_row("total with driver and allocator overhead", _gib(memory.total), style="bold")
    return table


def _verdict(preview: Preview, memory: MemoryEstimate) -> Text:
    place = _place(preview.pod("train"))
    if preview.available_bytes is None:
        return Text(f"Memory: {_gib(memory.total)} GiB; the memory of {place} is {UNKNOWN}.", "yellow")
    share = memory.total / preview.available_bytes
    sizes = f"Memory: {_gib(memory.total)} of the {_gib(preview.available_bytes)} GiB of {place}"
    if share <= TIGHT_SHARE:
        return Text(f"{sizes}: fits.", "green")
    smaller = "training.max_per_device_train_batch_size or dataset.max_length"
    remedy = f"Lower {smaller}, set training.gradient_checkpointing, or use a larger device."
    if not preview.pod("train").device:
        remedy = f"Raise backend.resources.memory, or lower {smaller}."
    return Text(f"{sizes}: {'tight' if share <= 1 else 'does not fit'}. {remedy}", "yellow" if share <= 1 else "red")


def _place(train: PodPreview) -> str:
    if not train.device:
        return "the pod's memory limit"
    name = train.node.instance_type if train.node else None
    unit = _unit(train)
    return f"a {unit} of {name}" if name else f"a {unit} ({train.device})"


def _unit(train: PodPreview) -> str:
    """The hardware unit of one process."""
    return "core" if train.node is not None and train.node.cores > 1 else "device"


def _cost_lines(preview: Preview, hours: float | None) -> list[str]:
    node = preview.pod("train").node
    assert node is not None
    if node.instance_type is None or node.usd_per_hour is None:
        hint = "" if node.instance_type else " No instance type in the price list fits; set backend.instance_type."
        return [f"Cost: {UNKNOWN} for {node.instance_type or 'the training'}.{hint}"]
    lines = [f"Cost: {node.usd_per_hour:.2f} USD per hour of training, on {_nodes(preview.pod('train'), node)}."]
    if hours is not None:
        lines.append(f"      {hours * node.usd_per_hour:.2f} USD for {hours:g} h of training.")
    if preview.training_limit_seconds is not None:
        limit_hours = preview.training_limit_seconds / 3600
        maximum = limit_hours * node.usd_per_hour
        lines.append(f"      At most {maximum:.2f} USD per attempt: the settings' timeout is {limit_hours:g} h.")
    if node.price_list is not None:
        lines.append(f"      {node.price_list.description}, {node.price_list.date}: {node.price_list.source}")
    return lines


def _nodes(train: PodPreview, node: NodePreview) -> str:
    nodes = f"{node.nodes} × {node.instance_type}"
    if train.device and node.devices > train.devices:
        nodes += f" ({train.devices} of {node.devices} devices)"
    return nodes if node.is_chosen else f"{nodes}, the cheapest in the price list that fits"


def _gib(size_bytes: float) -> str:
    return f"{size_bytes / GIBIBYTE:.2f}" if size_bytes < 10 * GIBIBYTE else f"{size_bytes / GIBIBYTE:.1f}"
