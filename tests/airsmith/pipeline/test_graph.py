"""The graph's edges follow from the stages' contracts, and show no wait that another wait implies."""

from __future__ import annotations

from airsmith.contracts.stages import STAGES
from airsmith.pipeline.graph import GROUPS, group_of, upstream_stages
from airsmith.pipeline.pages import STAGE_SUMMARIES


def test_the_whole_pipeline_is_a_chain_after_two_mirrors():
    assert upstream_stages(STAGES) == {
        "mirror_model": frozenset(),
        "mirror_dataset": frozenset(),
        "tokenize": {"mirror_model", "mirror_dataset"},
        "compile": {"mirror_model"},
        "train": {"tokenize", "compile"},
        "compare_trials": {"train"},
        "consolidate": {"train"},
        "merge": {"consolidate"},
        "evaluate": {"merge"},
        "register": {"evaluate"},
        "deploy": {"register"},
        "smoke_test": {"deploy"},
    }


def test_every_input_is_waited_for_directly_or_not():
    edges = upstream_stages(STAGES)

    def waits_for(stage: str) -> set[str]:
        return set(edges[stage]).union(*(waits_for(source) for source in edges[stage]))

    for name, contract in STAGES.items():
        assert {source.stage for source in contract.inputs} <= waits_for(name)


def test_a_stage_that_is_left_out_is_waited_for_by_nobody():
    unserved = [stage for stage in STAGES if stage not in ("deploy", "smoke_test")]
    assert set(upstream_stages(unserved)) == set(unserved)


def test_every_stage_has_a_group_and_a_sentence():
    assert {group_of(stage) for stage in STAGES} == set(GROUPS)
    assert set(STAGES) <= set(STAGE_SUMMARIES)
