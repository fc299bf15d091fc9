"""The encoding of examples: their tokens, loss masks and prompts."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import BPE, WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer, Metaspace

from airsmith.errors import AirsmithError, ErrorKind
from airsmith_stages.data.chat import EncodedExample, ExampleEncoder, _first_token_from
from airsmith_stages.data.examples import Example
from tests.support import chat_tokenizers
from tests.support.chat_tokenizers import CHATML, CHATML_UNMARKED, PLAIN
from tests.support.dataset_files import chat

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
"""Any text."""
conversations = st.lists(st.tuples(texts, texts), min_size=1, max_size=3).map(
    lambda pairs: chat(*(text for message in pairs for text in message))
)


@pytest.fixture(scope="module")
def chatml() -> Any:
    return chat_tokenizers.chatml_tokenizer()


@pytest.fixture(scope="module")
def bos_adding() -> Any:
    return chat_tokenizers.bos_adding_tokenizer()


@pytest.fixture(scope="module")
def backends(chatml: Any) -> list[Tokenizer]:
    """Backends with tokens of several characters, several tokens per character, and characters without a token."""
    words = Tokenizer(WordPiece({"[UNK]": 0, "a": 1, "##a": 2, "e": 3}, unk_token="[UNK]"))
    words.normalizer, words.pre_tokenizer = BertNormalizer(strip_accents=True), BertPreTokenizer()
    letters = Tokenizer(BPE({"<unk>": 0, "▁": 1, "a": 2, "▁a": 3}, [("▁", "a")], unk_token="<unk>", fuse_unk=True))
    letters.pre_tokenizer = Metaspace()
    return [chatml.backend_tokenizer, words, letters]


def encode(
    tokenizer: Any, template: str | None, *conversation: dict[str, str], end_ids: tuple[int, ...] = ()
) -> EncodedExample:
    (encoded,) = ExampleEncoder(tokenizer, template, end_ids)([Example(0, messages=conversation, split="train")])
    return encoded


def trained_texts(tokenizer: Any, encoded: EncodedExample) -> list[str]:
    """Decode the spans that the loss mask covers."""
    padded = np.concatenate([[0], encoded.loss_mask, [0]]).astype(int)
    (starts,), (ends,) = (np.nonzero(np.diff(padded) == step) for step in (1, -1))
    return [tokenizer.decode(encoded.tokens[start:end]) for start, end in zip(starts, ends, strict=True)]


def refusal(tokenizer: Any, template: str | None, *conversation: dict[str, str]) -> AirsmithError:
    with pytest.raises(AirsmithError) as refused:
        encode(tokenizer, template, *conversation)
    assert refused.value.kind is ErrorKind.BAD_DATA
    assert refused.value.hint
    return refused.value


class TestLossMask:
    @given(conversation=conversations)
    def test_it_covers_every_answer_with_its_end_of_turn_and_nothing_else(self, chatml: Any, conversation: Any) -> None:
        encoded = encode(chatml, CHATML, *conversation)
        assert trained_texts(chatml, encoded) == [message["content"] + "<|im_end|>" for message in conversation[1::2]]

    @given(conversation=conversations)
    def test_it_is_the_same_with_and_without_generation_markers(self, chatml: Any, conversation: Any) -> None:
        marked, unmarked = (encode(chatml, template, *conversation) for template in (CHATML, CHATML_UNMARKED))
        assert (marked.tokens == unmarked.tokens).all()
        assert (marked.loss_mask == unmarked.loss_mask).all()
        assert marked.prompt_length == unmarked.prompt_length

    @given(conversation=conversations)
    def test_the_prompt_equals_the_input_of_a_server(self, chatml: Any, conversation: Any) -> None:
        for template in (CHATML, CHATML_UNMARKED):
            encoded = encode(chatml, template, *conversation)
            served = chatml.apply_chat_template(
                conversation[:-1], chat_template=template, add_generation_prompt=True, return_dict=False
            )
            assert encoded.tokens[: encoded.prompt_length].tolist() == served

    @given(conversation=conversations)
    def test_a_token_that_spans_prompt_and_answer_belongs_to_the_prompt(
        self, bos_adding: Any, conversation: Any
    ) -> None:
        encoded = encode(bos_adding, PLAIN, *conversation)
        text = bos_adding.apply_chat_template(conversation, chat_template=PLAIN, tokenize=False)
        offsets = bos_adding(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        spans, end = [], 0
        for message in conversation[1::2]:
            begin = text.index(f"assistant: {message['content']}</s>", end) + len("assistant: ")
            end = begin + len(message["content"]) + len("</s>")
            spans.append((begin, end))
        expected = [any(begin <= start and stop <= end for begin, end in spans) for start, stop in offsets]
        assert encoded.loss_mask.tolist() == [int(inside) for inside in expected]

    def test_some_merge_spans_prompt_and_answer(self, bos_adding: Any) -> None:
        """The case of the test above occurs."""
        prompt = bos_adding("<s>user: a\nassistant: ", add_special_tokens=False)["input_ids"]
        assert encode(bos_adding, PLAIN, *chat("a", "yes")).tokens[: len(prompt)].tolist() != prompt

    def test_it_excludes_system_and_tool_messages(self, chatml: Any) -> None:
        conversation = [{"role": "system", "content": "Be brief."}, *chat("a", "b"), {"role": "tool", "content": "c"}]
        encoded = encode(chatml, CHATML, *conversation, {"role": "assistant", "content": "d"})
        assert trained_texts(chatml, encoded) == ["b<|im_end|>", "d<|im_end|>"]

    def test_it_covers_a_completion_with_its_end_token_and_not_its_prompt(self, chatml: Any) -> None:
        (encoded,) = ExampleEncoder(chatml, None)([Example(0, prompt="2 + 2 = ", completion="4")])
        assert trained_texts(chatml, encoded) == ["4<|im_end|>"]
        assert chatml.decode(encoded.tokens) == "2 + 2 = 4<|im_end|>"

    def test_its_dtype(self, chatml: Any) -> None:
        encoded = encode(chatml, CHATML, *chat("a", "b"))
        assert (encoded.tokens.dtype, encoded.loss_mask.dtype) == (np.uint32, np.uint8)


class TestFirstTokenFrom:
    """The lookup uses the encoding itself, because a list of all offsets is slow to create."""

    @given(text=st.text(st.sampled_from("aaé \n\u0301\0🦊<|im_end|>"), max_size=12), character=st.integers(0, 12))
    def test_it_is_the_first_token_that_starts_at_or_after_the_character(
        self, backends: list[Tokenizer], text: str, character: int
    ) -> None:
        for backend in backends:
            encoding = backend.encode(text, add_special_tokens=False)
            starts = [start for start, _ in encoding.offsets]
            assert _first_token_from(encoding, character) == bisect_left(starts, character)


class TestEndOfTurn:
    END_AFTER_MARKERS = CHATML.replace(
        "+ '<|im_end|>' -}}\n{%- endgeneration -%}", "-}}{%- endgeneration -%}{{- '<|im_end|>' -}}"
    )

    def test_an_end_of_turn_after_the_markers_has_loss(self, chatml: Any) -> None:
        assert self.END_AFTER_MARKERS != CHATML
        assert trained_texts(chatml, encode(chatml, self.END_AFTER_MARKERS, *chat("a", "b"))) == ["b<|im_end|>"]

    def test_text_after_the_end_of_turn_has_no_loss(self, chatml: Any) -> None:
        template = CHATML.replace("'<|im_end|>' -}}\n{%- endgen", "'<|im_end|>\\nbye' -}}\n{%- endgen")
        assert template != CHATML
        assert trained_texts(chatml, encode(chatml, template, *chat("a", "b"))) == ["b<|im_end|>"]

    @pytest.mark.parametrize("template", [CHATML, CHATML_UNMARKED])
    def test_a_template_without_an_end_of_turn_is_refused(self, chatml: Any, template: str) -> None:
        error = refusal(chatml, template.replace("<|im_end|>", ""), *chat("a", "b"))
        assert "never learn to stop" in error.message

    def test_the_generation_config_can_define_another(self, chatml: Any) -> None:
        template = CHATML.replace("<|im_end|>", "<|endoftext|>")
        refusal(chatml, template, *chat("a", "b"))
        end = chatml.convert_tokens_to_ids("<|endoftext|>")
        encoded = encode(chatml, template, *chat("a", "b"), end_ids=(end,))
        assert trained_texts(chatml, encoded) == ["b<|endoftext|>"]


class TestBeginOfSequence:
    def test_one_bos_if_both_tokenizer_and_template_add_it(self, bos_adding: Any) -> None:
        tokens = encode(bos_adding, PLAIN, *chat("a", "b", "c", "d")).tokens.tolist()
        assert tokens[0] == bos_adding.bos_token_id
        assert tokens.count(bos_adding.bos_token_id) == 1

    def test_one_bos_before_a_completion(self, bos_adding: Any) -> None:
        (encoded,) = ExampleEncoder(bos_adding, None)([Example(0, prompt="a", completion="b")])
        assert bos_adding.decode(encoded.tokens) == "<s>ab</s>"

    def test_a_template_without_the_bos_that_the_tokenizer_adds_is_refused(self, bos_adding: Any) -> None:
        error = refusal(bos_adding, PLAIN.replace("{{- bos_token -}}", ""), *chat("a", "b"))
        assert "<s>" in error.message
        assert "bos_token" in error.hint

    def test_two_bos_are_refused(self, bos_adding: Any) -> None:
        assert "Two BOS" in refusal(bos_adding, "{{- bos_token -}}" + PLAIN, *chat("a", "b")).message

    def test_bos_at_the_start_of_a_message_does_not_count_as_second(self) -> None:
        tokenizer = chat_tokenizers.message_start_is_bos_tokenizer()
        encoded = encode(tokenizer, CHATML, *chat("a", "b", "c", "d"))
        assert trained_texts(tokenizer, encoded) == ["b<|im_end|>", "d<|im_end|>"]


class TestRefused:
    def test_a_template_that_renders_earlier_messages_differently(self, chatml: Any) -> None:
        """Some templates omit the thinking of earlier messages."""
        omits_earlier = CHATML_UNMARKED.replace(
            "{{- message['content'] + '<|im_end|>' -}}\n{%- else",
            "{{- (message['content'] if loop.last else '…') + '<|im_end|>' -}}\n{%- else",
        )
        assert omits_earlier != CHATML_UNMARKED
        assert trained_texts(chatml, encode(chatml, omits_earlier, *chat("a", "b"))) == ["b<|im_end|>"]
        error = refusal(chatml, omits_earlier, *chat("a", "b", "c", "d"))
        assert "row 0 of 'train'" in error.message
        assert "{% generation %}" in error.hint

    def test_a_generation_prompt_that_does_not_start_the_answer(self, chatml: Any) -> None:
        template = CHATML_UNMARKED.replace("'<|im_start|>assistant\\n' -}}", "'<|im_start|>assistant\\n<think>' -}}")
        assert template != CHATML_UNMARKED
        assert "where the answer begins" in refusal(chatml, template, *chat("a", "b")).message

    @pytest.mark.parametrize(
        ("template", "masked"),
        [
            ("{{ 'x' }}{% generation %}{% endgeneration %}{{ eos_token }}", "no token"),
            ("{% generation %}{{ messages[0]['content'] + eos_token }}{% endgeneration %}", "every token"),
        ],
    )
    def test_a_mask_of_only_zeros_or_only_ones(self, chatml: Any, template: str, masked: str) -> None:
        template = template.replace("{% endgeneration %}{{ eos_token }}", "{% endgeneration %}{{ 'y' }}")
        error = refusal(chatml, template, *chat("a", "b"))
        assert f"row 0 of 'train', {masked}" in error.message

    def test_a_conversation_without_a_template(self, chatml: Any) -> None:
        error = refusal(chatml, None, *chat("a", "b"))
        assert "chat template" in error.message
        assert "dataset.chat_template" in error.hint

    def test_roles_that_the_template_rejects(self, chatml: Any) -> None:
        template = "{{ raise_exception('roles must alternate') }}"
        assert "roles must alternate" in refusal(chatml, template, *chat("a", "b")).message
