"""Encode examples: rendered by the chat template, tokenized once, with a loss mask over the assistant's messages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from airsmith.errors import AirsmithError, ErrorKind
from airsmith_stages.data.examples import Example, Message

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")

Span = tuple[int, int]


@dataclass(frozen=True)
class EncodedExample:
    """A tokenized example.

    :param tokens: uint32.
    :param loss_mask: uint8, 1 for tokens that contribute to the loss.
    :param prompt_length: number of tokens before the last answer.
    """

    example: Example
    tokens: NDArray[np.uint32]
    loss_mask: NDArray[np.uint8]
    prompt_length: int


@dataclass(frozen=True)
class _Rendered:
    """A text, its character spans that contribute to the loss, and the start of the last answer."""

    text: str
    spans: tuple[Span, ...]
    answer_start: int


class ExampleEncoder:
    """Converts batches of examples to tokens and loss masks.

    :param chat_template: renders conversations; None if neither the tokenizer nor the recipe has one.
    :param end_ids: end tokens of the model's generation config, if it has one.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, chat_template: str | None, end_ids: Iterable[int] = ()
    ) -> None:
        self.tokenizer = tokenizer
        self.chat_template = chat_template
        self.end_of_turn_ids = end_of_turn_ids(tokenizer) | frozenset(end_ids)
        self._added_bos_id = _added_bos_id(tokenizer)
        self._backend: Tokenizer = tokenizer.backend_tokenizer

    def __call__(self, examples: Sequence[Example], *, with_prompts: bool = True) -> list[EncodedExample]:
        """Encode a batch.

        :param with_prompts: False if `prompt_length` is not needed, which may cost another rendering; it is then the
            position of the template's mark of the last answer.
        :raises AirsmithError: `bad_data`, naming the row, if its loss mask would be wrong.
        """
        # Other calls of the tokenizer may have changed both.
        self._backend.no_truncation()
        self._backend.no_padding()
        rendered = [self._render(example, with_prompts) for example in examples]
        # The tokenizer's own methods would build lists of all offsets, of which few are needed.
        encodings = self._backend.encode_batch([item.text for item in rendered], add_special_tokens=False)
        return [self._masked(*parts) for parts in zip(examples, rendered, encodings, strict=True)]

    def render_prompt(self, example: Example) -> str:
        """The prompt that a server receives: everything before the last answer, including the generation prompt."""
        rendered = self._render(example, with_prompt=True)
        return rendered.text[: rendered.answer_start]

    def _masked(self, example: Example, rendered: _Rendered, encoding: Encoding) -> EncodedExample:
        ids = encoding.ids
        mask = np.zeros(len(ids), dtype=np.uint8)
        for begin, end in rendered.spans:
            # A token that begins before the answer belongs to the prompt, even if it extends into the answer.
            first, last = _first_token_from(encoding, begin), _first_token_from(encoding, end)
            mask[first : self._through_end_of_turn(ids, first, last)] = 1
        self._check(example, ids, mask)
        return EncodedExample(
            example,
            np.array(ids, dtype=np.uint32),
            mask,
            prompt_length=_first_token_from(encoding, rendered.answer_start),
        )

    def _render(self, example: Example, with_prompt: bool) -> _Rendered:
        if not example.is_conversation:
            return self._render_completion(example)
        if self.chat_template is None:
            raise AirsmithError(
                ErrorKind.BAD_DATA,
                "The tokenizer has no chat template, and the dataset's examples are conversations.",
                "Set dataset.chat_template, or use dataset.format 'prompt-completion'.",
            )
        if _GENERATION.search(self.chat_template):
            return self._render_marked(example, with_prompt)
        return self._render_by_prefix(example)

    def _render_completion(self, example: Example) -> _Rendered:
        """Plain text with the BOS that the tokenizer adds, and EOS at the end."""
        bos = "" if self._added_bos_id is None else str(self.tokenizer.bos_token)
        prompt = f"{bos}{example.prompt}"
        text = f"{prompt}{example.completion}{self.tokenizer.eos_token or ''}"
        return _Rendered(text, ((len(prompt), len(text)),), len(prompt))

    def _render_marked(self, example: Example, with_prompt: bool) -> _Rendered:
        """The template marks the assistant's messages with {% generation %}."""
        texts, spans = self._apply([example.messages], return_assistant_tokens_mask=True)
        marked = tuple((start, end) for start, end in spans[0] if end > start)
        answer_start = marked[-1][0] if marked else 0
        if with_prompt:
            prompt = self._prompt(example.messages[:-1])
            answer_start = len(prompt) if texts[0].startswith(prompt) else answer_start
        return _Rendered(texts[0], marked, answer_start)

    def _render_by_prefix(self, example: Example) -> _Rendered:
        """The template has no marks: the answer is the text that follows its prompt.

        :raises AirsmithError: `bad_data` if the prompt is not a prefix of the whole text.
        """
        whole = self._apply([example.messages])[0][0]
        spans = []
        for index, message in enumerate(example.messages):
            if message["role"] != "assistant":
                continue
            prompt = self._prompt(example.messages[:index])
            is_last = index == len(example.messages) - 1
            answered = whole if is_last else self._apply([example.messages[: index + 1]])[0][0]
            if not answered.startswith(prompt) or not whole.startswith(answered.rstrip()):
                raise AirsmithError(
                    ErrorKind.BAD_DATA,
                    f"The chat template renders {example.place} differently with and without an answer, so it is "
                    "unknown where the answer begins.",
                    "Set dataset.chat_template to a template with {% generation %} markers.",
                )
            spans.append((len(prompt), len(answered.rstrip())))
        return _Rendered(whole, tuple(spans), spans[-1][0])

    def _prompt(self, messages: Sequence[Message]) -> str:
        return str(self._apply([messages], add_generation_prompt=True)[0][0])

    def _apply(self, conversations: Sequence[Sequence[Message]], **options: Any) -> Any:
        try:
            return render_jinja_template(
                [list(messages) for messages in conversations],
                chat_template=self.chat_template,
                **{**self.tokenizer.special_tokens_map, **options},
            )
        except Exception as error:
            raise AirsmithError(
                ErrorKind.BAD_DATA,
                f"The chat template fails on a conversation: {error}.",
                "Correct the roles in the data, or set dataset.chat_template to another template.",
            ) from error

    def _through_end_of_turn(self, ids: list[int], first: int, last: int) -> int:
        """End of an answer: directly after the end-of-turn token, so that the model learns to stop."""
        for position in range(first, min(last + 1, len(ids))):
            if ids[position] in self.end_of_turn_ids:
                return position + 1
        return last

    def _check(self, example: Example, ids: list[int], mask: NDArray[np.uint8]) -> None:
        if not mask.any() or mask.all():
            masked = "every token" if mask.any() else "no token"
            raise AirsmithError(
                ErrorKind.BAD_DATA,
                f"In {example.place}, {masked} would contribute to the loss: the chat template misplaces the answers.",
                "Check the example and the template's {% generation %} markers.",
            )
        if ids[int(np.flatnonzero(mask)[-1])] not in self.end_of_turn_ids:
            raise AirsmithError(
                ErrorKind.BAD_DATA,
                f"The last answer of {example.place} does not end with an end-of-turn token, so the model would never "
                "learn to stop.",
                "Change the chat template to end an answer with the tokenizer's EOS token.",
            )
        self._check_bos(example, ids)

    def _check_bos(self, example: Example, ids: list[int]) -> None:
        """Require exactly one BOS at the start if the tokenizer adds one; else it may begin turns, as in ChatML."""
        bos = self.tokenizer.bos_token_id
        if bos is not None and ids[:2] == [bos, bos]:
            raise AirsmithError(
                ErrorKind.BAD_DATA,
                f"Two BOS tokens ({self.tokenizer.bos_token}) begin {example.place}.",
                "Remove the BOS token from the data or from dataset.chat_template.",
            )
        if self._added_bos_id is not None and ids[0] != self._added_bos_id:
            raise AirsmithError(
                ErrorKind.BAD_DATA,
                f"The tokenizer begins every text with {self.tokenizer.bos_token}, but the chat template, which "
                "servers use instead, does not.",
                "Set dataset.chat_template to that template with {{- bos_token -}} prepended.",
            )


def _first_token_from(encoding: Encoding, character: int) -> int:
    """The first token that begins at or after a character."""
    if not len(encoding) or encoding.token_to_chars(len(encoding) - 1)[1] <= character:
        return len(encoding)
    token = encoding.char_to_token(character)
    if token is None:  # The tokenizer drops this character.
        return next(index for index, (start, _) in enumerate(encoding.offsets) if start >= character)
    while token < len(encoding) and encoding.token_to_chars(token)[0] < character:
        token += 1
    return int(token)


def end_of_turn_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Tokens that end an answer: EOS, and special tokens that chat models use instead."""
    names = ("<|im_end|>", "<|eot_id|>", "<|end|>", "<|end_of_turn|>", "<end_of_turn>", "<|return|>")
    vocabulary = tokenizer.get_added_vocab()
    found = {vocabulary[name] for name in names if name in vocabulary}
    if tokenizer.eos_token_id is not None:
        found.add(int(tokenizer.eos_token_id))
    return frozenset(found)


def _added_bos_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The BOS token that the tokenizer prepends to every text; None if it prepends none."""
    bos = tokenizer.bos_token_id
    return int(bos) if bos is not None and tokenizer("a")["input_ids"][:1] == [bos] else None
