"""The chunked loss and its gradients equal the model's own, including any transformation of the logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, set_seed

from airsmith_stages.training import loss
from airsmith_stages.training.loss import chunk_loss

SIZES = {
    "vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "initializer_range": 0.3, "tie_word_embeddings": False,
}  # fmt: skip


def model_of(family: str = "llama", **config: Any) -> PreTrainedModel:
    set_seed(3)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **{**SIZES, **config}))


def batch(labels: float = 0.6) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randint(0, 61, (3, 17), generator=generator)
    has_label = torch.rand(tokens.shape, generator=generator) < labels
    return {"input_ids": tokens, "labels": torch.where(has_label, tokens, -100)}


def loss_and_gradients(model: PreTrainedModel, **inputs: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    value = model(**batch(), **inputs).loss
    value.backward()
    return value.detach(), {
        name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None
    }


@pytest.mark.parametrize("elements", [1, 200, 2**23], ids=["row by row", "some rows", "all at once"])
@pytest.mark.parametrize("inputs", [{}, {"num_items_in_batch": torch.tensor(77)}], ids=["mean", "of more batches"])
@pytest.mark.parametrize("head", ["trained", "frozen", "tied"])
def test_loss_and_gradients_equal_those_of_the_model(
    monkeypatch: pytest.MonkeyPatch, elements: int, inputs: dict[str, Any], head: str
) -> None:
    monkeypatch.setattr(loss, "CHUNK_ELEMENTS", elements)
    own, chunked = (model_of(tie_word_embeddings=head == "tied") for _ in range(2))
    for model in (own, chunked):
        model.get_output_embeddings().requires_grad_(head != "frozen")
    assert chunk_loss(chunked)
    expected, gradients = loss_and_gradients(own, **inputs)
    value, chunked_gradients = loss_and_gradients(chunked, **inputs)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)
    assert chunked_gradients.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(chunked_gradients[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_the_full_logits_are_never_materialized(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "CHUNK_ELEMENTS", 5 * 61)
    model, sizes = model_of(), []
    assert chunk_loss(model)
    linear = torch.nn.functional.linear
    monkeypatch.setattr(loss.functional, "linear", lambda *inputs: sizes.append(inputs[0].shape[0]) or linear(*inputs))
    model(**batch()).loss.backward()
    of_the_head = [size for size in sizes if size != 3]
    assert max(of_the_head) <= 5
    assert sum(of_the_head) == int((batch()["labels"][:, 1:] != -100).sum())


def test_a_batch_without_labels_has_zero_loss_and_gradients() -> None:
    model = model_of()
    assert chunk_loss(model)
    value = model(**{**batch(), "labels": torch.full((3, 17), -100)}, num_items_in_batch=torch.tensor(9)).loss
    value.backward()
    assert value == 0
    assert all(not parameter.grad.any() for parameter in model.parameters() if parameter.grad is not None)


@pytest.mark.parametrize(
    ("family", "config", "is_chunked"),
    [
        ("gemma2", {"final_logit_softcapping": 2.0, "head_dim": 8}, False),
        # Scaling the hidden states scales the logits.
        ("granite", {"logits_scaling": 8.0}, True),
    ],
)
def test_transformations_of_the_logits_are_preserved(family: str, config: dict[str, Any], is_chunked: bool) -> None:
    own, chunked = model_of(family, **config), model_of(family, **config)
    assert chunk_loss(chunked) is is_chunked
    torch.testing.assert_close(loss_and_gradients(chunked)[0], loss_and_gradients(own)[0], rtol=1e-6, atol=0)


def test_in_bfloat16_the_loss_equals_the_model_s_within_precision() -> None:
    own, chunked = model_of(), model_of()
    assert chunk_loss(chunked)
    with torch.autocast("cpu", torch.bfloat16):
        (expected, gradients), (value, chunked_gradients) = loss_and_gradients(own), loss_and_gradients(chunked)
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=0)
    for name, gradient in gradients.items():
        torch.testing.assert_close(chunked_gradients[name], gradient, rtol=0.05, atol=2e-3, msg=name)
