"""optimum-neuron's trainer on the stubs trains LoRA with Airsmith's labels, sampler and metrics."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch.nn import functional

from airsmith.contracts.run import Run
from airsmith.errors import AirsmithError, ErrorKind
from tests.support.neuron_training_runs import (
    MAX_LENGTH,
    UNFUSED_PROJECTIONS,
    NeuronTrainingRuns,
    history_of,
    losses_of,
    train_in_process,
    trained_artifact,
)
from tests.support.training_runs import counting_rows, loss_mask

ALL_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def plain_losses(trainings: NeuronTrainingRuns, run: Run, lora: dict[str, torch.Tensor]) -> list[float]:
    """Losses of a plain loop with transformers' model, peft's LoRA and torch's optimizer, one row at a time."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from airsmith_stages.training.sampler import permutation

    training = run.read_spec().recipe.training
    base = AutoModelForCausalLM.from_pretrained(trainings.folder / "base-tiny", dtype="float32")
    model = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules=list(UNFUSED_PROJECTIONS)))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(lora[name.replace(".default", "")])
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=training.learning_rate, weight_decay=0.0)
    rows = [torch.tensor(row[0]) for row in counting_rows(18)]
    masks = [torch.from_numpy(loss_mask(row.tolist())).bool() for row in rows]
    losses, steps_per_epoch = [], 18 // 4
    for step in range(training.max_steps or 0):
        epoch, position = divmod(step, steps_per_epoch)
        chosen = permutation(18, training.seed, epoch)[4 * position : 4 * position + 4].tolist()
        labels = sum(int(masks[index][1:].sum()) for index in chosen)
        total = torch.zeros(())
        for index in chosen:
            logits = model(input_ids=rows[index].unsqueeze(0)).logits[0, :-1]
            targets = torch.where(masks[index], rows[index], -100)[1:]
            total = total + functional.cross_entropy(logits, targets, reduction="sum", ignore_index=-100)
        loss = total / labels
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, training.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = training.learning_rate * (1 - step / (training.max_steps or 1))
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.fixture
def first_lora(monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """LoRA's initial matrices."""
    from airsmith_stages.neuron import training

    seen: dict[str, torch.Tensor] = {}
    load_model = training.load_model

    def load_and_record(*args: Any) -> Any:
        model = load_model(*args)
        state = {name.replace(".default", ""): value for name, value in model.module.state_dict().items()}
        seen.update({name: value.clone() for name, value in state.items() if "lora_" in name})
        return model

    monkeypatch.setattr(training, "load_model", load_and_record)
    return seen


def test_losses_equal_those_of_a_plain_loop_on_the_same_rows(
    trainings: NeuronTrainingRuns, first_lora: dict[str, torch.Tensor]
) -> None:
    run = trainings.neuron_run()
    train_in_process(run)
    losses = losses_of(run)
    assert len(losses) == 12
    assert losses == pytest.approx(plain_losses(trainings, run, first_lora), abs=1e-4)
    assert losses[0] - losses[-1] > 0.05  # 500 times the tolerance.


def test_the_artifact_has_the_library_s_files_and_the_properties_to_read_them(trainings: NeuronTrainingRuns) -> None:
    run = trainings.neuron_run(
        method={"name": "lora", "r": 4, "target_modules": ALL_PROJECTIONS}, max_steps=2, save_steps=100
    )
    train_in_process(run)
    artifact = trained_artifact(run)
    names = set(artifact.names())
    assert {"adapter_config.json", "adapter_shards/done", "adapter_shards/mp_metadata_pp_rank_0.json"} < names
    assert "adapter_shards/model/dp_rank_00_tp_rank_00_pp_rank_00.pt" in names
    assert {name.partition("/")[0] for name in names} == {
        "adapter_config.json", "adapter_shards", "metrics.jsonl", "loss.png",
    }  # fmt: skip
    assert artifact.type == "adapter_shards"
    assert artifact.manifest.properties == {
        "end_tokens": "[1]", "shards": "1", "tensor_parallel_size": "1", "pipeline_parallel_size": "1",
        "resume": "warm_restart",
    }  # fmt: skip
    config = json.loads(artifact.read("adapter_config.json"))
    assert config["base_model_name_or_path"] == "tests/tiny-llama"
    assert sorted(config["target_modules"]) == sorted(ALL_PROJECTIONS)


def test_metrics_count_what_their_names_state(trainings: NeuronTrainingRuns) -> None:
    run = trainings.neuron_run(max_steps=4, logging_steps=2)
    train_in_process(run)
    rows, metrics = history_of(run), trained_artifact(run).manifest.metrics
    assert [row["step"] for row in rows] == [2, 4]
    assert rows[-1]["epoch"] == pytest.approx(1.0)  # 18 rows make four steps of 4
    for row in rows:
        # 16 tokens of every row with its padding, about 9 without.
        assert row["padded_tokens_per_second"] > row["tokens_per_second"] > 0
        assert {"loss", "learning_rate", "grad_norm", "mfu_6n_percent"} < row.keys()
        assert "mfu" not in row
    lengths = [len(row[0]) for row in counting_rows(18)]
    assert sum(lengths) - 2 * max(lengths) <= metrics["tokens"] <= sum(lengths) - 2 * min(lengths)
    assert metrics["rows_dropped_per_epoch"] == 2
    assert (metrics["steps"], metrics["warm_restarts"], metrics["graphs_compiled"]) == (4, 0, 0)
    assert metrics["train_loss"] == rows[-1]["loss"]


def test_dropped_rows_are_logged(trainings: NeuronTrainingRuns, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "airsmith")
    train_in_process(trainings.neuron_run(max_steps=None, num_train_epochs=1.0, save_steps=100))
    assert "Dropping 2 of 18 rows in each epoch" in caplog.text


def test_an_epoch_has_only_full_steps(trainings: NeuronTrainingRuns) -> None:
    run = trainings.neuron_run(max_steps=None, num_train_epochs=1.5, save_steps=100, total_train_batch_size=4)
    train_in_process(run)
    assert trained_artifact(run).manifest.metrics["steps"] == 6


def test_fewer_rows_than_a_step_are_rejected_with_a_remedy(trainings: NeuronTrainingRuns) -> None:
    with pytest.raises(AirsmithError, match="has 3 rows, fewer than the 4") as refused:
        train_in_process(trainings.neuron_run(rows=3))
    assert refused.value.kind is ErrorKind.BAD_DATA
    assert "training.total_train_batch_size to 3" in refused.value.hint


def test_rows_longer_than_the_compiled_length_are_rejected(trainings: NeuronTrainingRuns) -> None:
    with pytest.raises(AirsmithError, match=r"row of 12 tokens, but .*compiled for 8 tokens") as refused:
        train_in_process(trainings.neuron_run(dataset={"max_length": 8}))
    assert refused.value.kind is ErrorKind.BAD_DATA


def test_a_loss_that_is_not_finite_stops_the_training(
    trainings: NeuronTrainingRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airsmith_stages.neuron import training

    load_model = training.load_model

    def load_broken(*args: Any) -> Any:
        model = load_model(*args)
        with torch.no_grad():
            model.module.get_base_model().lm_head.weight[3, 3] = torch.nan
        return model

    monkeypatch.setattr(training, "load_model", load_broken)
    with pytest.raises(AirsmithError, match="training loss is nan at step 2") as refused:
        train_in_process(trainings.neuron_run(logging_steps=2))
    assert refused.value.kind is ErrorKind.NON_FINITE_LOSS


def test_full_training_in_bfloat16_publishes_model_shards(trainings: NeuronTrainingRuns) -> None:
    run = trainings.neuron_run(method={"name": "full"}, max_steps=3, precision="bfloat16", gradient_checkpointing=True)
    train_in_process(run)
    artifact = trained_artifact(run)
    assert artifact.type == "model_shards"
    assert {"shards/done", "shards/mp_metadata_pp_rank_0.json"} < set(artifact.names())
    assert artifact.manifest.properties["tokenizer_digest"] == "tokenizer-of-base"
    assert losses_of(run)[-1] < losses_of(run)[0]


def test_gradient_checkpointing_changes_no_loss(trainings: NeuronTrainingRuns) -> None:
    runs = [trainings.neuron_run(max_steps=4, gradient_checkpointing=enabled) for enabled in (False, True)]
    for run in runs:
        train_in_process(run)
    assert losses_of(runs[1]) == pytest.approx(losses_of(runs[0]), abs=1e-4)


def test_all_rows_have_one_shape_and_padding_has_no_label(trainings: NeuronTrainingRuns) -> None:
    from airsmith_stages.neuron.rows import read_training_rows

    run = trainings.neuron_run()
    pointer = run.pointer("tokenize")
    assert pointer is not None
    from airsmith.artifacts.read import open_artifact

    tokens = open_artifact(run.store, pointer.location)
    assert tokens is not None
    rows, collator = read_training_rows(tokens, trainings.folder / "rows", MAX_LENGTH)
    for index in range(len(rows)):
        batch = collator([rows[index]])
        size = len(rows[index].tokens)
        assert {tuple(value.shape) for value in batch.values()} == {(1, MAX_LENGTH)}
        assert batch["attention_mask"][0].tolist() == [1] * size + [0] * (MAX_LENGTH - size)
        assert batch["labels"][0, size:].tolist() == [-100] * (MAX_LENGTH - size)
        labeled = rows[index].loss_mask.astype(bool)
        assert batch["labels"][0, :size][labeled].tolist() == rows[index].tokens[labeled].tolist()
        assert batch["labels"][0, :size][~labeled].tolist() == [-100] * int((~labeled).sum())
