"""The compiler's cache on the local disk: its compiled graphs, and the files to keep.

`neuronxcc-<version>/MODULE_<graph>+<flags>/` contains one graph: the compiler writes `model.neff` and then
`model.done`. A failed graph has a `model.log` instead and is never retried. A graph whose compiler was killed has a
`*.lock`, on which every later compiler waits forever. Sources: public caches
(https://huggingface.co/aws-neuron/optimum-neuron-cache) and
https://awsdocs-neuron.readthedocs-hosted.com/en/v2.26.0/general/arch/neuron-features/neuron-caching.html.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from airsmith.artifacts.read import Artifact

_GRAPH, _COMPILED, _DONE = "MODULE_*", "model.neff", "model.done"


def count_graphs(folder: Path) -> int:
    """Number of compiled graphs in a cache."""
    return len(compiled_graphs(folder))


def compiled_graphs(folder: Path) -> list[Path]:
    """Folders of the compiled graphs."""
    return [graph for graph in _graphs(folder) if _is_compiled(graph)]


def unfinished_graphs(folder: Path) -> list[Path]:
    """Folders of the graphs that failed or are not compiled yet."""
    return [graph for graph in _graphs(folder) if not _is_compiled(graph)]


def files_to_keep(folder: Path) -> dict[str, Path]:
    """The files to keep, by their relative name: those of the compiled graphs, without locks."""
    files = (path for graph in compiled_graphs(folder) for path in sorted(graph.rglob("*")))
    return {path.relative_to(folder).as_posix(): path for path in files if path.is_file() and not path.match("*.lock")}


def unpack_cache(cache: Artifact, folder: Path) -> int:
    """Download and verify a stored cache, complete or partial.

    :returns: the number of compiled graphs in the folder.
    """
    cache.download(folder)
    clear_leftovers(folder)
    return count_graphs(folder)


def clear_leftovers(folder: Path) -> None:
    """Remove what would block the compiler: locks of compilers that have exited, and failed graphs.

    No compiler may be using the cache.
    """
    for lock in folder.rglob("*.lock"):
        lock.unlink()
    for graph in unfinished_graphs(folder):
        shutil.rmtree(graph)


def _graphs(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob(_GRAPH) if path.is_dir())


def _is_compiled(graph: Path) -> bool:
    return (graph / _COMPILED).is_file() and (graph / _DONE).is_file()
