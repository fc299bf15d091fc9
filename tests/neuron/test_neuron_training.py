"""optimum-neuron's real trainer trains LoRA on the stubs, with our labels, our order and our metrics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from trainings import LENGTH, UNFUSED, NeuronBench, artifact_of, history_of, losses_of, on_cpus, train_here

from airsmith.artifacts.store import Store
from airsmith.contracts.run import Run
from airsmith.errors import AirsmithError, ErrorKind

SEVEN = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.fixture
def bench(tmp_path: Path) -> NeuronBench:
    return NeuronBench(Store.open(f"file://{tmp_path}/store"), tmp_path)


def plain_losses(bench: NeuronBench, run: Run, lora: dict[str, torch.Tensor]) -> list[float]:
    """Losses of a plain loop: transformers' own model, peft's own LoRA, torch's optimizer, one row after another."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from airsmith_stages.training.order import permutation

    training = run.read_spec().recipe.training
    base = AutoModelForCausalLM.from_pretrained(bench.scratch / "base-tiny", dtype="float32")
    model = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules=list(UNFUSED)))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(lora[name.replace(".default", "")])
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=training.learning_rate, weight_decay=0.0)
    rows = [torch.tensor(row[0]) for row in on_cpus.counting_rows(18)]
    masks = [torch.from_numpy(on_cpus.loss_mask(row.tolist())).bool() for row in rows]
    losses, steps_per_epoch = [], 18 // 4
    for step in range(training.max_steps or 0):
        epoch, position = divmod(step, steps_per_epoch)
        chosen = permutation(18, training.seed, epoch)[4 * position : 4 * position + 4].tolist()
        labels = sum(int(masks[index][1:].sum()) for index in chosen)
        total = torch.zeros(())
        for index in chosen:
            logits = model(input_ids=rows[index].unsqueeze(0)).logits[0, :-1]
            wanted = torch.where(masks[index], rows[index], -100)[1:]
            total = total + functional.cross_entropy(logits, wanted, reduction="sum", ignore_index=-100)
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
    """LoRA's matrices as the training begins with them."""
    from airsmith_stages.neuron import training

    seen: dict[str, torch.Tensor] = {}
    load_model = training.load_model

    def load_and_look(*args: Any) -> Any:
        model = load_model(*args)
        state = {name.replace(".default", ""): value for name, value in model.module.state_dict().items()}
        seen.update({name: value.clone() for name, value in state.items() if "lora_" in name})
        return model

    monkeypatch.setattr(training, "load_model", load_and_look)
    return seen


def test_losses_equal_those_of_a_plain_loop_on_the_same_rows(
    bench: NeuronBench, first_lora: dict[str, torch.Tensor]
) -> None:
    run = bench.neuron_run()
    train_here(run)
    losses = losses_of(run)
    assert len(losses) == 12
    assert losses == pytest.approx(plain_losses(bench, run, first_lora), abs=1e-4)
    assert losses[0] - losses[-1] > 0.05  # Five hundred times what they may differ.


def test_what_is_published_is_the_library_s_files_with_what_reading_them_takes(bench: NeuronBench) -> None:
    run = bench.neuron_run(method={"name": "lora", "r": 4, "target_modules": SEVEN}, max_steps=2, save_steps=100)
    train_here(run)
    artifact = artifact_of(run)
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
    assert sorted(config["target_modules"]) == sorted(SEVEN)


def test_metrics_say_what_they_count(bench: NeuronBench) -> None:
    run = bench.neuron_run(max_steps=4, logging_steps=2)
    train_here(run)
    rows, metrics = history_of(run), artifact_of(run).manifest.metrics
    assert [row["step"] for row in rows] == [2, 4]
    assert rows[-1]["epoch"] == pytest.approx(1.0)  # 18 rows make four steps of 4
    for row in rows:
        # 16 tokens of every row with its padding, about 9 without.
        assert row["padded_tokens_per_second"] > row["tokens_per_second"] > 0
        assert {"loss", "learning_rate", "grad_norm", "mfu_6n_percent"} < row.keys()
        assert "mfu" not in row
    lengths = [len(row[0]) for row in on_cpus.counting_rows(18)]
    assert sum(lengths) - 2 * max(lengths) <= metrics["tokens"] <= sum(lengths) - 2 * min(lengths)
    assert metrics["rows_dropped_per_epoch"] == 2
    assert (metrics["steps"], metrics["warm_restarts"], metrics["graphs_compiled"]) == (4, 0, 0)
    assert metrics["train_loss"] == rows[-1]["loss"]


def test_rows_that_do_not_fill_a_step_are_left_out_and_told(
    bench: NeuronBench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "airsmith")
    train_here(bench.neuron_run(max_steps=None, num_train_epochs=1.0, save_steps=100))
    assert "Leaving out 2 of 18 rows in each epoch" in caplog.text


def test_an_epoch_is_its_whole_steps(bench: NeuronBench) -> None:
    run = bench.neuron_run(max_steps=None, num_train_epochs=1.5, save_steps=100, total_train_batch_size=4)
    train_here(run)
    assert artifact_of(run).manifest.metrics["steps"] == 6


def test_fewer_rows_than_a_batch_are_refused_with_what_helps(bench: NeuronBench) -> None:
    with pytest.raises(AirsmithError, match="has 3 rows, less than the 4") as refused:
        train_here(bench.neuron_run(rows=3))
    assert refused.value.kind is ErrorKind.BAD_DATA
    assert "training.total_train_batch_size to 3" in refused.value.hint


def test_rows_longer_than_what_was_compiled_are_refused(bench: NeuronBench) -> None:
    with pytest.raises(AirsmithError, match=r"row of 12 tokens, but .*max_length 8") as refused:
        train_here(bench.neuron_run(dataset={"max_length": 8}))
    assert refused.value.kind is ErrorKind.BAD_DATA


def test_a_loss_that_is_not_finite_ends_the_training(bench: NeuronBench, monkeypatch: pytest.MonkeyPatch) -> None:
    from airsmith_stages.neuron import training

    load_model = training.load_model

    def load_broken(*args: Any) -> Any:
        model = load_model(*args)
        with torch.no_grad():
            model.module.get_base_model().lm_head.weight[3, 3] = torch.nan
        return model

    monkeypatch.setattr(training, "load_model", load_broken)
    with pytest.raises(AirsmithError, match="training loss is nan at step 2") as refused:
        train_here(bench.neuron_run(logging_steps=2))
    assert refused.value.kind is ErrorKind.NON_FINITE_LOSS


def test_all_parameters_in_bfloat16_make_shards_of_a_model(bench: NeuronBench) -> None:
    run = bench.neuron_run(method={"name": "full"}, max_steps=3, precision="bfloat16", gradient_checkpointing=True)
    train_here(run)
    artifact = artifact_of(run)
    assert artifact.type == "model_shards"
    assert {"shards/done", "shards/mp_metadata_pp_rank_0.json"} < set(artifact.names())
    assert artifact.manifest.properties["tokenizer_digest"] == "tokenizer-of-base"
    assert losses_of(run)[-1] < losses_of(run)[0]


def test_recomputed_activations_change_no_loss(bench: NeuronBench) -> None:
    runs = [bench.neuron_run(max_steps=4, gradient_checkpointing=recomputed) for recomputed in (False, True)]
    for run in runs:
        train_here(run)
    assert losses_of(runs[1]) == pytest.approx(losses_of(runs[0]), abs=1e-4)


def test_every_row_has_one_shape_and_padding_is_no_label(bench: NeuronBench) -> None:
    from airsmith_stages.neuron.rows import read_training_rows

    run = bench.neuron_run()
    pointer = run.pointer("tokenize")
    assert pointer is not None
    from airsmith.artifacts.read import open_artifact

    tokens = open_artifact(run.store, pointer.location)
    assert tokens is not None
    rows, collator = read_training_rows(tokens, bench.scratch / "rows", LENGTH)
    for index in range(len(rows)):
        batch = collator([rows[index]])
        size = len(rows[index].tokens)
        assert {tuple(value.shape) for value in batch.values()} == {(1, LENGTH)}
        assert batch["attention_mask"][0].tolist() == [1] * size + [0] * (LENGTH - size)
        assert batch["labels"][0, size:].tolist() == [-100] * (LENGTH - size)
        learnt = rows[index].loss_mask.astype(bool)
        assert batch["labels"][0, :size][learnt].tolist() == rows[index].tokens[learnt].tolist()
        assert batch["labels"][0, :size][~learnt].tolist() == [-100] * int((~learnt).sum())
