"""The edges of the graph follow from the stages' contracts, without transitive edges."""

from __future__ import annotations

from airsmith.contracts.stages import STAGES
from airsmith.pipeline.graph import GROUPS, group_of, upstream_stages
from airsmith.pipeline.pages import STAGE_SUMMARIES


def test_all_stages_form_one_chain_after_the_two_mirrors():
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


def test_every_input_is_upstream():
    edges = upstream_stages(STAGES)

    def all_upstream(stage: str) -> set[str]:
        return set(edges[stage]).union(*(all_upstream(source) for source in edges[stage]))

    for name, contract in STAGES.items():
        assert {source.stage for source in contract.inputs} <= all_upstream(name)


def test_an_omitted_stage_has_no_downstream():
    without_serving = [stage for stage in STAGES if stage not in ("deploy", "smoke_test")]
    assert set(upstream_stages(without_serving)) == set(without_serving)


def test_every_stage_has_a_group_and_a_summary():
    assert {group_of(stage) for stage in STAGES} == set(GROUPS)
    assert set(STAGES) <= set(STAGE_SUMMARIES)
