"""This process's rank and the world size, from torchrun's variables."""

from __future__ import annotations

import os


def world_size():
    return int(os.environ.get("WORLD_SIZE", "1"))


def global_ordinal():
    return int(os.environ.get("RANK", "0"))


def local_ordinal():
    return int(os.environ.get("LOCAL_RANK", "0"))


def local_process_count():
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
