"""A folder of weights becomes a model that can be served from that folder alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from airsmith.contracts.errors import AirsmithError
from airsmith_stages.data.chat import ExampleTokeniser
from airsmith_stages.data.examples import Example

CHAT_TEMPLATE, GENERATION_CONFIG, TOKENIZER_CONFIG = (
    "chat_template.jinja",
    "generation_config.json",
    "tokenizer_config.json",
)

_WRITTEN_WITH_THE_WEIGHTS = ("config.json",)
_OF_THE_BASE_ALONE = ("README.md", ".gitattributes")
_ONE_EXCHANGE = ({"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello"})


def complete_model_folder(
    folder: Path, base: Path, chat_template: str | None, *, trust_remote_code: bool = False
) -> None:
    """Add to tuned weights and their config all else that the base has, and what tuning changes about it.

    The generation config is made to stop at the token that the model has learnt to stop at: a base model's own often
    names only the end of a text, and its tuned model would then answer until it runs out of tokens.

    :param folder: holds the weights as `save_pretrained` writes them.
    :param chat_template: the one that the model was tuned with, where it is not the base's own.
    """
    for path in sorted(base.rglob("*")):
        name = path.relative_to(base)
        if path.is_file() and not _is_weights(path) and str(name) not in _WRITTEN_WITH_THE_WEIGHTS + _OF_THE_BASE_ALONE:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / name)
    if chat_template is not None:
        _replace_chat_template(folder, chat_template)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    _stop_at(folder, _learnt_ends(tokenizer))


def _replace_chat_template(folder: Path, template: str) -> None:
    """Leave no second template behind that another library might prefer."""
    (folder / CHAT_TEMPLATE).write_text(template, encoding="utf-8")
    config_file = folder / TOKENIZER_CONFIG
    config = json.loads(config_file.read_text(encoding="utf-8")) if config_file.exists() else {}
    if config.pop("chat_template", None) is not None:
        config_file.write_text(json.dumps(config, indent=2, ensure_ascii=False), encoding="utf-8")


def _learnt_ends(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that end what the model was taught: EOS, and whatever the chat template ends an answer with."""
    ends = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    if tokenizer.chat_template is None:
        return ends
    try:
        (exchange,) = ExampleTokeniser(tokenizer, tokenizer.chat_template)([Example(0, messages=_ONE_EXCHANGE)])
    except AirsmithError:
        # A template for conversations of another kind; `tokenize` has accepted what the data holds.
        return ends
    return [*ends, int(exchange.tokens[exchange.loss_mask.nonzero()[0][-1]])]


def _stop_at(folder: Path, tokens: list[int]) -> None:
    path = folder / GENERATION_CONFIG
    config = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    stops = config.get("eos_token_id")
    known = stops if isinstance(stops, list) else [] if stops is None else [stops]
    missing = [token for token in dict.fromkeys(tokens) if token not in known]
    if missing:
        path.write_text(json.dumps({**config, "eos_token_id": [*known, *missing]}, indent=2) + "\n", encoding="utf-8")


def _is_weights(path: Path) -> bool:
    return path.name.endswith((".safetensors", ".safetensors.index.json"))
