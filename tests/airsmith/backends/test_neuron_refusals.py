"""What optimum-neuron does not support, or would silently ignore, is refused with the reason and a remedy."""

from __future__ import annotations

from typing import Any

import pytest

from airsmith.backends import get_backend
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.pipeline.model_fit import check_model, fit_to_model
from airsmith.pipeline.plan import make_plan
from airsmith.recipe import Recipe
from tests.support.model_configs import GRANITE_2B, LLAMA_8B, QWEN3_06B, SMOLLM2_135M
from tests.support.recipes import new_recipe

LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def recipe_with(**groups: Any) -> Recipe:
    backend = {"name": "neuron_xla", "instance_type": "trn1.32xlarge", "devices": 16, **groups.pop("backend", {})}
    dataset = {"id": "c/d", "validation_fraction": 0.1, **groups.pop("dataset", {})}
    return new_recipe(dataset=dataset, backend=backend, **groups)


def refusal(**groups: Any) -> AirsmithError:
    with pytest.raises(AirsmithError) as caught:
        make_plan(recipe_with(**groups))
    assert caught.value.kind is ErrorKind.BAD_RECIPE
    return caught.value


@pytest.mark.parametrize(
    ("groups", "message", "remedy"),
    [
        ({"method": {"name": "qlora"}}, "method.name is 'qlora'", "'lora' or 'full'"),
        ({"method": {"use_dora": True}}, "method.use_dora", "Set method.use_dora to false"),
        ({"method": {"modules_to_save": ["lm_head"]}}, "method.modules_to_save has lm_head", "method.target_modules"),
        ({"method": {"target_modules": ["gate_proj"]}}, "gate_proj without up_proj", "Add up_proj"),
        ({"method": {"target_modules": ["up_proj", "q_proj"]}}, "up_proj without gate_proj", "Add gate_proj"),
        ({"method": {"target_modules": ["wte"]}}, "'wte', which matches no layer", "all-linear, or some of q_proj"),
        ({"method": {"target_modules": ["layers.0.self_attn.q_proj"]}}, "some blocks", "Use q_proj"),
        ({"method": {"target_modules": ["q_proj["]}}, "not a valid regular expression", "names of layers"),
        ({"method": {"rank_pattern": {"up_proj": 4}}}, "rank_pattern has 'up_proj' for up_proj", "method.r and"),
        ({"method": {"alpha_pattern": {r".*\.mlp\..*": 4}}}, "for gate_proj and up_proj", "gate_proj and up_proj"),
        ({"training": {"precision": "float16"}}, "training.precision is 'float16'", "float32, bfloat16"),
        ({"training": {"eval_steps": 9}}, "does not support validation during training", "Remove training.eval_steps"),
        (
            {"training": {"eval_steps": 10, "load_best_model_at_end": True, "early_stopping_patience": 1}},
            "training.eval_steps is 10",
            "training.load_best_model_at_end and training.early_stopping_patience",
        ),
        (
            {"training": {"eval_steps": 10}, "sweep": {"grid": {"method.r": [4, 8]}}},
            "training.eval_steps is 10",
            "a sweep, which compares validation losses",
        ),
        ({"dataset": {"packing": "isolated"}}, "covers the whole row", "'none', or to 'across_samples'"),
        ({"dataset": {"max_length": 3000}}, "multiples of 2048", "Use 2048 or 4096"),
        ({"dataset": {"max_length": 4095}}, "multiples of 2048", "Use 2048 or 4096"),
        ({"dataset": {"max_length": 100}}, "100 does not divide by the 8 cores", "Use 96 or 104"),
        ({"evaluate": {"backend": "neuron_xla"}}, "evaluate.backend is 'neuron_xla'", "'cpu'"),
    ],
)
def test_what_the_library_does_not_support_is_refused_with_a_remedy(
    groups: dict[str, Any], message: str, remedy: str
) -> None:
    error = refusal(**groups)
    assert message in error.message
    assert remedy in error.hint


@pytest.mark.parametrize(
    "groups",
    [
        {},
        {"method": {"name": "full"}},
        {"method": {"target_modules": ["q_proj", "v_proj"]}},
        {"method": {"target_modules": ["lm_head", "embed_tokens", "o_proj"]}},
        {"method": {"use_rslora": True, "rank_pattern": {"o_proj": 4}, "alpha_pattern": {"down_proj": 4}}},
        {"dataset": {"packing": "across_samples", "max_length": 4096}},
        {"dataset": {"max_length": 192}},
        {"evaluate": {"backend": "cuda"}},
        *(
            {"training": {"lr_scheduler_type": each}}
            for each in ("linear", "cosine", "constant", "constant_with_warmup")
        ),
    ],
)
def test_what_the_library_supports_is_planned(groups: dict[str, Any]) -> None:
    assert make_plan(recipe_with(**groups)).has("compile")


def test_all_errors_are_reported_together() -> None:
    error = refusal(method={"use_dora": True}, dataset={"packing": "isolated"}, training={"eval_steps": 5})
    assert error.message.startswith("3 checks failed:")


def test_short_rows_get_a_note_about_their_cost() -> None:
    backend = get_backend("neuron_xla")
    (note,) = backend.notes(recipe_with(dataset={"max_length": 192}))
    assert "192 tokens are computed without Neuron's attention kernel" in note
    assert not backend.notes(recipe_with(dataset={"max_length": 2048}))


@pytest.mark.parametrize(
    ("targets", "names"),
    [
        (["all-linear"], LINEAR_LAYERS),
        (["v_proj", "q_proj"], ("q_proj", "v_proj")),
        (["self_attn.q_proj", "mlp.down_proj"], ("q_proj", "down_proj")),
        ([".*_proj"], LINEAR_LAYERS),
        (["(q|k|v|o)_proj", "lm_head"], ("q_proj", "k_proj", "v_proj", "o_proj", "lm_head")),
        (["all-linear", "embed_tokens"], (*LINEAR_LAYERS, "embed_tokens")),
    ],
)
def test_lora_targets_are_resolved_to_layer_names(targets: list[str], names: tuple[str, ...]) -> None:
    recipe = recipe_with(method={"target_modules": targets})
    assert fit_to_model(recipe, lambda: LLAMA_8B).method.target_modules == names


def test_other_backends_keep_the_targets_and_read_no_config() -> None:
    recipe = new_recipe()

    def read() -> dict[str, Any]:
        raise AssertionError("this backend must not read the model's config")

    assert fit_to_model(recipe, read) == recipe


def model_refusal(config: dict[str, Any], **groups: Any) -> AirsmithError:
    with pytest.raises(AirsmithError) as caught:
        check_model(recipe_with(**groups), config)
    assert caught.value.kind is ErrorKind.BAD_RECIPE
    return caught.value


@pytest.mark.parametrize(
    ("config", "groups", "message", "remedy"),
    [
        (SMOLLM2_135M, {}, "num_attention_heads 9 does not divide by 8", "backend.tensor_parallel_size to 1"),
        ({**LLAMA_8B, "intermediate_size": 14340}, {}, "intermediate_size 14340", "tensor_parallel_size to 4"),
        ({**LLAMA_8B, "vocab_size": 128257}, {}, "vocab_size 128257", "tensor_parallel_size to 1"),
        (
            {**LLAMA_8B, "num_key_value_heads": 12, "num_attention_heads": 48},
            {},
            "num_key_value_heads 12 neither divides by 8 nor divides it",
            "tensor_parallel_size to 4",
        ),
        ({**LLAMA_8B, "num_hidden_layers": 30}, {"backend": {"pipeline_parallel_size": 4}}, "30 layers", "it to 3"),
        (
            GRANITE_2B,
            {"backend": {"pipeline_parallel_size": 2}},
            "no pipeline parallelism for granite",
            "Set backend.pipeline",
        ),
        ({**LLAMA_8B, "attention_bias": True}, {}, "have biases", "without attention_bias"),
        (
            QWEN3_06B,
            {"backend": {"tensor_parallel_size": 16}, "method": {"target_modules": ["q_proj", "v_proj"]}},
            "q_proj and v_proj without k_proj",
            "Add k_proj",
        ),
        (
            QWEN3_06B,
            {"backend": {"tensor_parallel_size": 16}, "method": {"rank_pattern": {"q_proj": 4}}},
            "rank_pattern has 'q_proj'",
            "q_proj, k_proj and v_proj",
        ),
        ({"model_type": "qwen3_moe"}, {}, "type 'qwen3_moe'", "llama, qwen3, granite"),
        ({"model_type": "mistral"}, {}, "type 'mistral'", "llama, qwen3, granite"),
        ({}, {}, "type None", "llama, qwen3, granite"),
    ],
)
def test_a_model_that_cannot_be_sharded_is_refused_with_its_sizes(
    config: dict[str, Any], groups: dict[str, Any], message: str, remedy: str
) -> None:
    error = model_refusal(config, **groups)
    assert message in error.message
    assert remedy in error.hint


@pytest.mark.parametrize("config", [LLAMA_8B, QWEN3_06B, GRANITE_2B])
@pytest.mark.parametrize("targets", [["all-linear"], ["q_proj", "v_proj"]])
def test_supported_model_families_are_accepted(config: dict[str, Any], targets: list[str]) -> None:
    check_model(recipe_with(method={"target_modules": targets}), config)


def test_the_proposed_tensor_parallel_size_is_accepted() -> None:
    error = model_refusal({**LLAMA_8B, "intermediate_size": 14340})
    size = int(error.hint.rstrip(".").rsplit(" ", 1)[-1])
    check_model(recipe_with(backend={"tensor_parallel_size": size}), {**LLAMA_8B, "intermediate_size": 14340})
