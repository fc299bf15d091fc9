"""The compiler's cache on the local disk: which graphs in it are compiled, and what of it is worth keeping.

`neuronxcc-<version>/MODULE_<graph>+<flags>/` holds one graph: the compiler writes `model.neff` and marks it with
`model.done`; a graph that failed has a `model.log` instead and is never tried again, and one that was being compiled
when its compiler was killed has a `*.lock`, on which every later compiler waits for ever. As seen in public caches
(https://huggingface.co/aws-neuron/optimum-neuron-cache) and described in
https://awsdocs-neuron.readthedocs-hosted.com/en/v2.26.0/general/arch/neuron-features/neuron-caching.html.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from airsmith.artifacts.read import Artifact

_GRAPH, _COMPILED, _DONE = "MODULE_*", "model.neff", "model.done"


def count_graphs(folder: Path) -> int:
    """How many graphs of a cache are compiled."""
    return len(compiled_graphs(folder))


def compiled_graphs(folder: Path) -> list[Path]:
    """Folders of the graphs that are compiled."""
    return [graph for graph in _graphs(folder) if _is_compiled(graph)]


def unfinished_graphs(folder: Path) -> list[Path]:
    """Folders of the graphs that failed, or that nobody came to compile."""
    return [graph for graph in _graphs(folder) if not _is_compiled(graph)]


def files_to_keep(folder: Path) -> dict[str, Path]:
    """What of a cache is worth keeping, by its name there: all of the graphs that are compiled but their locks."""
    files = (path for graph in compiled_graphs(folder) for path in sorted(graph.rglob("*")))
    return {path.relative_to(folder).as_posix(): path for path in files if path.is_file() and not path.match("*.lock")}


def unpack_cache(cache: Artifact, folder: Path) -> int:
    """Copy a stored cache, whole or partly filled, into a folder, verified.

    :returns: how many compiled graphs the folder has then.
    """
    cache.download(folder)
    clear_leftovers(folder)
    return count_graphs(folder)


def clear_leftovers(folder: Path) -> None:
    """Remove what would keep the compiler from going on: locks of compilers that are gone, and graphs that failed.

    Nobody may be compiling into the cache.
    """
    for lock in folder.rglob("*.lock"):
        lock.unlink()
    for graph in unfinished_graphs(folder):
        shutil.rmtree(graph)


def _graphs(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob(_GRAPH) if path.is_dir())


def _is_compiled(graph: Path) -> bool:
    return (graph / _COMPILED).is_file() and (graph / _DONE).is_file()
