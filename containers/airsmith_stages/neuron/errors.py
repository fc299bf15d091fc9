"""Maps failures of Neuron's runtime and compiler to Airsmith's errors.

The runtime's codes: https://awsdocs-neuron.readthedocs-hosted.com/en/latest/neuron-runtime/api/nrt_status.html. They
appear as text in the exceptions of any library. Not run on a device.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from airsmith.errors import AirsmithError, ErrorKind

_OTHER_NODE = (
    "Airsmith retries it, on another node if possible. If it fails on every node, send AWS the log's lines with `NRT` "
    "or `nccom`."
)


@dataclass(frozen=True)
class Symptom:
    """A failure of Neuron, recognized by its text.

    :param pattern: matches the text.
    :param summary: the failure in one clause.
    """

    pattern: re.Pattern[str]
    kind: ErrorKind
    summary: str
    hint: str


def _symptom(pattern: str, kind: ErrorKind, summary: str, hint: str) -> Symptom:
    return Symptom(re.compile(pattern, re.IGNORECASE), kind, summary, hint)


SYMPTOMS = (
    _symptom(
        r"\[F137\]|neuronx-cc.{0,200}(forcibly killed|signal 9|SIGKILL|exit (status|code) (-9|137)\b)",
        ErrorKind.OUT_OF_MEMORY,
        "The compiler was killed because the host's memory ran out",
        "Raise backend.resources.memory, or lower training.max_per_device_train_batch_size or dataset.max_length.",
    ),
    _symptom(
        r"NRT_FAIL_HOST_MEM_ALLOC",
        ErrorKind.OUT_OF_MEMORY,
        "The host's memory ran out",
        "Raise backend.resources.memory.",
    ),
    _symptom(
        r"(logical )?neuron ?cores?\(?s?\)? (are )?not available|NRT_LOAD_NOT_ENOUGH_NC|NRT_EXEC_NC_BUSY",
        ErrorKind.DEVICE_ERROR,
        "There are fewer NeuronCores than processes, or another process holds them",
        "Airsmith retries it. If it fails again, check that the pod has as many devices as backend.devices specifies.",
    ),
    _symptom(
        r"NRT_RESOURCE\b|failed to allocate .{0,80}(device|hbm|dram|neuron|tensor)|RESOURCE_EXHAUSTED",
        ErrorKind.OUT_OF_MEMORY,
        "The memory of a NeuronCore ran out",
        "Lower training.max_per_device_train_batch_size or dataset.max_length, set training.gradient_checkpointing, or "
        "raise backend.tensor_parallel_size.",
    ),
    _symptom(
        r"NRT_EXEC_COMPLETED_WITH_NUM_ERR",
        ErrorKind.NON_FINITE_LOSS,
        "A NeuronCore computed numbers that are not finite",
        "Lower training.learning_rate or raise training.warmup_ratio; if training.precision is not float32, set it to "
        "float32.",
    ),
    _symptom(
        r"NRT_EXEC_HW_ERR_\w+|NRT_HW_ERROR|NRT_EXEC_UNIT_UNRECOVERABLE|NRT_EXEC_SW_NQ_OVERFLOW",
        ErrorKind.DEVICE_ERROR,
        "A Neuron device failed",
        _OTHER_NODE,
    ),
    _symptom(
        r"NRT_TIMEOUT|NRT_NETWORK_PROXY_FAILURE|(collective|all-?reduce|all-?gather|barrier|rendezvous|nccom)"
        r".{0,120}tim(ed|e) ?-?out",
        ErrorKind.DEVICE_ERROR,
        "A collective operation between NeuronCores timed out",
        _OTHER_NODE,
    ),
    _symptom(
        r"\bNRT_\w+|nrt_init|\bnrt_execute\b|No neuron device available|NEURON_RT",
        ErrorKind.DEVICE_ERROR,
        "Neuron's runtime failed",
        _OTHER_NODE,
    ),
)
"""In order of precedence: more specific symptoms come first."""


@contextmanager
def neuron_errors() -> Iterator[None]:
    """Convert exceptions of Neuron's libraries to AirsmithErrors."""
    try:
        yield
    except AirsmithError:
        raise
    except Exception as failure:
        error = read_symptom(failure)
        if error is None:
            raise
        raise error from failure


def read_symptom(failure: BaseException) -> AirsmithError | None:
    """The error for an exception, derived from the exception or its causes; None if it is not a failure of Neuron."""
    for symptom in SYMPTOMS:
        for text in _texts(failure):
            if symptom.pattern.search(text):
                line = next((line for line in text.splitlines() if symptom.pattern.search(line)), text)
                return AirsmithError(
                    symptom.kind, f"{symptom.summary}: {line.strip().rstrip('.')[:300]}.", symptom.hint
                )
    return None


def _texts(failure: BaseException | None) -> Iterator[str]:
    """The messages of an exception and of its chain of causes."""
    while failure is not None:
        yield str(failure)
        failure = failure.__cause__ or failure.__context__
