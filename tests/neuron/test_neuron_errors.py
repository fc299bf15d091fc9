"""Failures of Neuron's runtime and compiler become AirsmithErrors with a hint."""

from __future__ import annotations

import pytest

from airsmith.errors import AirsmithError, ErrorKind
from airsmith.errors.retries import RETRIES, Retry
from airsmith_stages.neuron.errors import neuron_errors

DEVICE, MEMORY = ErrorKind.DEVICE_ERROR, ErrorKind.OUT_OF_MEMORY


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("Bad StatusOr access: INTERNAL: RunNeuronCCImpl: error condition error != 0: [F137] neuronx-cc was forcibly "
         "killed - This most commonly occurs due to insufficient system memory.", MEMORY),
        ("subprocess.CalledProcessError: neuronx-cc compile --target trn1 returned non-zero exit status -9.", MEMORY),
        ("nrt_execute status=1200, NRT_EXEC_HW_ERR_COLLECTIVES", DEVICE),
        ("NRT_EXEC_HW_ERR_HBM_UE: uncorrectable memory error", DEVICE),
        ("Execution failed: NRT_EXEC_UNIT_UNRECOVERABLE status_code=101", DEVICE),
        ("nrt_execute failed: NRT_TIMEOUT", DEVICE),
        ("nd0 nc1: collective operation all-reduce timed out after 120 s", DEVICE),
        ("The PJRT plugin: Logical Neuron Core(s) not available - Requested:32 Available:0", DEVICE),
        ("nrt_init failed with status 1", DEVICE),
        ("Failed to load model: NRT_RESOURCE: failed to allocate 512 MB on ND 3", MEMORY),
        ("NRT_FAIL_HOST_MEM_ALLOC", MEMORY),
        ("status 1003 NRT_EXEC_COMPLETED_WITH_NUM_ERR", ErrorKind.NON_FINITE_LOSS),
    ],
)  # fmt: skip
def test_failures_of_runtime_and_compiler_have_a_kind(message: str, kind: ErrorKind) -> None:
    with pytest.raises(AirsmithError) as raised, neuron_errors():
        raise ValueError("a step failed") from RuntimeError(message)
    assert raised.value.kind is kind
    assert raised.value.hint
    # Only device errors are retried, on another node if possible.
    assert RETRIES[kind] is (Retry.BACK_OFF if kind is DEVICE else Retry.NEVER)


@pytest.mark.parametrize("message", ["No such file", "the loss is nan", "index 7 is out of bounds"])
def test_other_exceptions_are_not_changed(message: str) -> None:
    with pytest.raises(ValueError, match=message), neuron_errors():
        raise ValueError(message)


def test_airsmith_errors_are_not_changed() -> None:
    own = AirsmithError(ErrorKind.INTERRUPTED, "NRT_TIMEOUT is only in the message")
    with pytest.raises(AirsmithError) as raised, neuron_errors():
        raise own
    assert raised.value is own
