from __future__ import annotations

from airsmith_stages.training.history import (
    best_step,
    is_patience_exhausted,
    last_value,
    lowest_eval_loss,
    was_evaluated,
)


def validations(*losses: float) -> list[dict[str, float]]:
    return [{"step": 10 * (number + 1), "eval_loss": loss} for number, loss in enumerate(losses)]


def test_the_best_step_is_the_first_of_the_lowest_loss_with_a_checkpoint() -> None:
    history = validations(5.0, 3.0, 1.0, 3.0, 4.0)
    assert best_step(history, save_steps=20, last_step=50) == 20
    assert best_step(history, save_steps=10, last_step=50) == 30
    assert best_step(history, save_steps=20, last_step=30) == 30
    assert best_step([{"step": 10, "loss": 1.0}], save_steps=10, last_step=10) is None


def test_patience_counts_validations_since_the_lowest_loss() -> None:
    assert not is_patience_exhausted(validations(3.0, 2.0, 2.5), patience=2)
    assert is_patience_exhausted(validations(3.0, 2.0, 2.5, 2.0), patience=2)
    assert not is_patience_exhausted(validations(3.0, 4.0, 5.0), patience=None)
    assert not is_patience_exhausted([], patience=1)


def test_values_are_read_from_the_rows_that_contain_them() -> None:
    history = [{"step": 1, "loss": 3.0}, {"step": 1, "eval_loss": 2.0}, {"step": 2, "eval_loss": 2.5}]
    assert last_value(history, "loss") == 3.0
    assert last_value(history, "grad_norm") is None
    assert lowest_eval_loss(history) == 2.0
    assert was_evaluated(history, 2)
    assert not was_evaluated(history, 3)
