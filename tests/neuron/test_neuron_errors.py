"""What Neuron's runtime and compiler say becomes an error of the closed list, with what to do about it."""

from __future__ import annotations

import pytest

from airsmith.errors import AirsmithError, ErrorKind
from airsmith.errors.retries import RETRIES, Retry
from airsmith_stages.neuron.errors import neuron_errors

DEVICE, MEMORY = ErrorKind.DEVICE_ERROR, ErrorKind.OUT_OF_MEMORY


@pytest.mark.parametrize(
    ("said", "kind"),
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
def test_what_the_runtime_and_the_compiler_say(said: str, kind: ErrorKind) -> None:
    with pytest.raises(AirsmithError) as told, neuron_errors():
        raise ValueError("a step failed") from RuntimeError(said)
    assert told.value.kind is kind
    assert told.value.hint
    # A device error is run again, where there is another node on it; what does not fit does not fit again.
    assert RETRIES[kind] is (Retry.BACK_OFF if kind is DEVICE else Retry.NEVER)


@pytest.mark.parametrize("said", ["No such file", "the loss is nan", "index 7 is out of bounds"])
def test_what_is_none_of_theirs_stays_as_it_is(said: str) -> None:
    with pytest.raises(ValueError, match=said), neuron_errors():
        raise ValueError(said)


def test_an_error_of_the_list_stays_as_it_is() -> None:
    own = AirsmithError(ErrorKind.INTERRUPTED, "NRT_TIMEOUT is only in the message")
    with pytest.raises(AirsmithError) as told, neuron_errors():
        raise own
    assert told.value is own
