"""Start and exit of a process that runs a stage: its log, and an exit without the interpreter's shutdown."""

from __future__ import annotations

import logging
import os
import sys
from typing import NoReturn


def configure_logging(*, is_main_process: bool = True) -> None:
    """Set up the log of this process.

    :param is_main_process: whether this is the main process of its stage; the others log only warnings and errors.
    """
    level = logging.INFO if is_main_process else logging.WARNING
    # Airflow reads a line's level from this prefix.
    logging.basicConfig(level=level, format="%(levelname)s: %(message)s", stream=sys.stderr)
    # A stage's output is a log. The Hub's client and transformers read this variable on import.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for client in ("httpx", "httpx2"):  # They log every request, including signed URLs.
        logging.getLogger(client).setLevel(logging.WARNING)


def exit_process(code: int) -> NoReturn:
    """Flush the output and exit immediately.

    With torch and peft loaded, the interpreter takes a second to shut down. All results are already in the store.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
