"""Tests of tokenizers built from checkpoint metadata."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import llguidance
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import runtime.tokenizer.tokenizer as tokenizer_module
from runtime.errors import ModelFileError
from runtime.tokenizer import Tokenizer, load_tokenizer
from runtime.tokenizer.pre_tokenizers import PRE_TOKENIZERS
from runtime.weights import open_checkpoint
from tests.helpers.mixed_texts import mixed_texts
from tests.helpers.tiny_gguf import (
    CHAT_TEMPLATE,
    ENDOFTEXT_ID,
    IM_END_ID,
    IM_START_ID,
    byte_pieces,
    tiny_vocabulary,
    write_tiny_llama,
)
from tests.helpers.tiny_sentencepiece import encode_by_scores, tiny_sentencepiece
from tools.errors import InvalidRequestError

NORMAL = 1


def _byte_level(*runs: str, **changes: object) -> dict[str, Any]:
    """The tiny vocabulary with tokens for `runs` and their beginnings."""
    metadata = tiny_vocabulary()
    tokens, merges = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.merges"]
    for run in runs:
        letters = [byte_pieces()[byte] for byte in run.encode()]
        for end in range(2, len(letters) + 1):
            if "".join(letters[:end]) not in tokens:
                tokens.append("".join(letters[:end]))
                merges.append(f"{''.join(letters[: end - 1])} {letters[end - 1]}")
    num_new = len(tokens) - len(metadata["tokenizer.ggml.token_type"])
    types = np.append(metadata["tokenizer.ggml.token_type"], [NORMAL] * num_new)
    named = {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
    return {**metadata, "tokenizer.ggml.token_type": types, **named}


def _with_user_defined_spaces() -> Tokenizer:
    """As Gemma: a run of spaces is a piece that stands before all merges."""
    metadata = tiny_sentencepiece()
    metadata["tokenizer.ggml.tokens"].append("  ")
    metadata["tokenizer.ggml.token_type"] = np.append(metadata["tokenizer.ggml.token_type"], 4)
    metadata["tokenizer.ggml.scores"] = np.append(metadata["tokenizer.ggml.scores"], 0.0)
    return load_tokenizer({**metadata, "tokenizer.ggml.add_space_prefix": False})


_SENTENCEPIECE = load_tokenizer(tiny_sentencepiece())
_SPACES = _with_user_defined_spaces()


@pytest.fixture(scope="module")
def tiny() -> Tokenizer:
    return load_tokenizer(_byte_level())


def test_tokenizer_of_a_file_knows_its_ids_and_template(tmp_path: Path) -> None:
    metadata = open_checkpoint(write_tiny_llama(tmp_path / "tiny.gguf")).metadata
    tokenizer = load_tokenizer(metadata)
    public = {name: value for name, value in vars(tokenizer).items() if name[0] != "_"}
    assert public == {
        "json": tokenizer.json,
        "vocab_size": 501,
        "bos_id": IM_START_ID,
        "eos_id": IM_END_ID,
        "adds_bos": False,
        "stop_ids": frozenset({ENDOFTEXT_ID, IM_END_ID}),
        "special_ids": {"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2},
        "chat_template": CHAT_TEMPLATE,
        "max_token_bytes": max(len(tokenizer.spell(token_id)) for token_id in range(501)),
    }
    assert json.loads(tokenizer.json)["model"]["type"] == "BPE"


def test_any_text_survives_encoding_and_decoding(tiny: Tokenizer) -> None:
    for text in mixed_texts():
        assert tiny.decode(tiny.encode(text)) == text


def test_special_tokens_are_ids_only_when_parsed(tiny: Tokenizer) -> None:
    text = "<|im_start|>user\n"
    parsed, plain = tiny.encode(text, parse_special=True), tiny.encode(text)
    assert (parsed[0], tiny.decode(parsed)) == (IM_START_ID, "user\n")
    assert (IM_START_ID in plain, tiny.decode(plain)) == (False, text)
    assert tiny.encode(text, parse_special=True) == parsed


@pytest.mark.anyio
async def test_others_go_on_while_a_long_text_is_split(tiny: Tokenizer) -> None:
    num_turns = 0

    async def count() -> None:
        nonlocal num_turns
        while True:
            await anyio.lowlevel.checkpoint()
            num_turns += 1

    async with anyio.create_task_group() as group:
        group.start_soon(count)
        token_ids = await anyio.to_thread.run_sync(tiny.encode, "ab" * 300_000)
        group.cancel_scope.cancel()
    assert len(token_ids) == 600_000
    assert num_turns > 1000


def _joined(tokenizer: Tokenizer, text: str, *, parse_special: bool) -> list[int]:
    """The tokens of a text that is not cut."""
    tokenizer._backend.encode_special_tokens = not parse_special
    (found,) = tokenizer._backend.encode_batch_fast([text], add_special_tokens=False)
    return list(found.ids)


@pytest.mark.parametrize("pre", [*PRE_TOKENIZERS, "sentencepiece"])
def test_a_text_has_the_same_tokens_when_it_is_cut(
    pre: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer_module, "PART_CHARS", 8)
    runs = ("1234", "\n\n", ".\n", "'LL", "LL", "(LL", "  ", "xLL", "x's", "./\n")
    is_known = pre in PRE_TOKENIZERS
    tokenizer = load_tokenizer(_byte_level(*runs, pre=pre)) if is_known else _SPACES
    text = "世界。".join(mixed_texts())
    for parse_special in (False, True):
        parts = list(tokenizer.encode_parts(text, parse_special=parse_special))
        joined = _joined(tokenizer, text, parse_special=parse_special)
        assert [token_id for part in parts for token_id in part] == joined
        assert len(parts) > 50


def test_a_text_is_cut_nowhere_where_a_token_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer_module, "PART_CHARS", 8)
    metadata = _byte_level()
    metadata["tokenizer.ggml.tokens"].append("b c")
    metadata["tokenizer.ggml.token_type"] = np.append(metadata["tokenizer.ggml.token_type"], [4])
    for tokenizer in (load_tokenizer(metadata), _SENTENCEPIECE):
        for text in ("ab cd " * 40, "ab\ncd\n" * 40):
            assert tokenizer.encode(text) == _joined(tokenizer, text, parse_special=False)
    assert 501 in load_tokenizer(metadata).encode("ab cd " * 40)


def test_what_cannot_be_cut_is_bounded(tiny: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer_module, "MAX_PART_CHARS", 100_000)
    assert len(tiny.encode("ab" * 50_000 + " ab" * 50_000)) > 100_000
    with pytest.raises(InvalidRequestError, match="100002 characters follow each other without"):
        tiny.encode("ab" * 50_001)


def test_who_waits_is_not_overtaken_by_who_goes_on(tiny: Tokenizer) -> None:
    long = tiny.encode_parts("ab " * 3_000_000)
    done = threading.Event()

    def split() -> None:
        tiny.encode("a")
        done.set()

    tiny._lock.acquire()
    threading.Thread(target=split).start()
    while not tiny._next.locked():
        time.sleep(0)
    tiny._lock.release()
    assert any(done.is_set() for _ in long)


def test_lone_surrogate_is_refused(tiny: Tokenizer) -> None:
    with pytest.raises(InvalidRequestError, match=r"lone surrogate '\\ud800' at character 2"):
        tiny.encode("ab\ud800")


@pytest.mark.parametrize("make", [tiny_vocabulary, tiny_sentencepiece])
def test_llguidance_reads_the_same_tokenizer(make: Callable[[], dict[str, Any]]) -> None:
    tokenizer = load_tokenizer(make())
    guidance = llguidance.LLTokenizer(
        tokenizer.json, n_vocab=tokenizer.vocab_size, eos_token=tokenizer.eos_id
    )
    assert guidance.is_canonical
    for token_id, expected in enumerate(tokenizer._token_bytes):
        # llguidance marks special tokens with the byte 0xff, which no UTF-8 text has.
        if expected not in {b"", b"\xff"}:
            assert guidance.decode_bytes([token_id]) == expected


SPLITS = [
    # (pre, text, its tokens)
    ("gpt-2", "12345", ["1234", "5"]),
    ("smollm", "12345", ["1234", "5"]),
    ("llama-bpe", "12345", ["123", "4", "5"]),
    ("qwen2", "12345", ["1", "2", "3", "4", "5"]),
    ("gpt-2", "x\n\n1", ["x", "\n", "\n", "1"]),
    ("llama-bpe", "x\n\n1", ["x", "\n\n", "1"]),
    ("qwen2", "x\n\n1", ["x", "\n\n", "1"]),
    ("gpt-2", ".\n", [".", "\n"]),
    ("llama-bpe", ".\n", [".\n"]),
    ("qwen2", ".\n", [".\n"]),
    ("gpt-2", "x'LL", ["x", "'", "LL"]),
    ("llama-bpe", "x'LL", ["x", "'LL"]),
    ("qwen2", "x'LL", ["x", "'LL"]),
    ("gpt-2", "(LL", ["(", "LL"]),
    ("llama-bpe", "(LL", ["(LL"]),
    ("qwen2", "   x", ["  ", " ", "x"]),
    ("gpt-2", "   x", ["  ", " ", "x"]),
    ("smaug-bpe", "12345", ["123", "4", "5"]),
    ("dbrx", "12345", ["123", "4", "5"]),
    ("gpt-4o", "12345", ["123", "4", "5"]),
    ("tekken", "12345", ["1", "2", "3", "4", "5"]),
    ("refact", "12345", ["1", "2", "3", "4", "5"]),
    ("starcoder", "12345", ["1", "2", "3", "4", "5"]),
    ("tekken", "xLL", ["x", "LL"]),
    ("gpt-4o", "xLL", ["x", "LL"]),
    ("llama-bpe", "xLL", ["xLL"]),
    ("gpt-4o", "x's", ["x's"]),
    ("tekken", "x's", ["x", "'", "s"]),
    ("tekken", "./\n", ["./\n"]),
    ("refact", ".\n", [".", "\n"]),
]


@pytest.mark.parametrize(("pre", "text", "tokens"), SPLITS)
def test_text_is_split_as_the_file_says(pre: str, text: str, tokens: list[str]) -> None:
    runs = ("1234", "\n\n", ".\n", "'LL", "LL", "(LL", "  ", "xLL", "x's", "./\n")
    tokenizer = load_tokenizer(_byte_level(*runs, pre=pre))
    assert [tokenizer.decode([token_id]) for token_id in tokenizer.encode(text)] == tokens


@given(st.text(alphabet="the and▁\n"))
def test_user_defined_runs_of_spaces_are_found_in_what_sentencepiece_reads(text: str) -> None:
    assert _SPACES.encode(text) == _SPACES.encode(text.replace("▁", " "))


def test_llama3_keeps_a_part_that_is_a_token_whole() -> None:
    metadata = _byte_level("abc", pre="llama-bpe")
    metadata["tokenizer.ggml.merges"].remove("ab c")
    tokenizer = load_tokenizer(metadata)
    assert [tokenizer.decode([token_id]) for token_id in tokenizer.encode("abc")] == ["abc"]


def test_user_defined_tokens_are_whole_and_have_text() -> None:
    metadata = _byte_level()
    metadata["tokenizer.ggml.tokens"].append("<think> é")
    metadata["tokenizer.ggml.token_type"] = np.append(metadata["tokenizer.ggml.token_type"], [4])
    tokenizer = load_tokenizer(metadata)
    assert tokenizer.encode("<think> é") == [501]
    assert tokenizer.decode([501]) == "<think> é"


@given(st.text(alphabet="the and in日本語.,é\u0301ẞ🙂\n<>"))
def test_sentencepiece_merges_by_score(text: str) -> None:
    metadata = tiny_sentencepiece()
    assert _SENTENCEPIECE.encode(text) == encode_by_scores(metadata, text)


def test_sentencepiece_tokens_have_their_text() -> None:
    sentencepiece = _SENTENCEPIECE
    token_ids = sentencepiece.encode("the 日本é🙂</s>", parse_special=True)
    assert sentencepiece.decode(token_ids) == " the 日本é🙂"
    assert (token_ids[-1], sentencepiece.adds_bos) == (2, True)
    assert sentencepiece.special_ids == {"<unk>": 0, "<s>": 1, "</s>": 2}


def test_space_before_the_text_is_the_files_choice() -> None:
    metadata = {**tiny_sentencepiece(), "tokenizer.ggml.add_space_prefix": False}
    tokenizer = load_tokenizer(metadata)
    assert tokenizer.decode(tokenizer.encode("the")) == "the"


REFUSED: dict[str, tuple[dict[str, object], str]] = {
    "no model": ({"model": None}, r"wanted tokenizer\.ggml\.model as str .* found nothing"),
    "unknown model": ({"model": "rwkv"}, r"found 'rwkv'"),
    "unknown pre": ({"pre": "qwen"}, r"pre is 'qwen', which .*; did you mean 'qwen2'"),
    "no pre": ({"pre": None}, r"pre is None"),
    "pre a number": ({"pre": [1]}, r"pre is \[1\]"),
    "tokens a number": ({"tokens": 5}, r"tokens as list in the model file, found int"),
    "no tokens": ({"tokens": []}, r"below 0, found 1"),
    "two tokens alike": ({"tokens": ["a", "b", "c", "b"]}, r"two tokens have the same text"),
    "token too long": ({"tokens": ["a" * 1025]}, r"over 1024 characters"),
    "too few types": (
        {"token_type": np.ones(5, np.int32)},
        r"wanted 501 numbers .* found int32 of shape \[5\]",
    ),
    "types of text": ({"token_type": ["a"]}, r"wanted 501 numbers .* found <U1 of shape \[1\]"),
    "eos out of range": ({"eos_token_id": 501}, r"eos_token_id below 501, found 501"),
    "eos a text": ({"eos_token_id": "x"}, r"eos_token_id as int .* found str"),
    "merge of unknown tokens": ({"merges": ["a zz"]}, r"'a zz' names an unknown token"),
    "merge of one token": ({"merges": ["abc"]}, r"'abc' names an unknown token"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_damaged_vocabulary_is_refused_with_its_reason(kind: str) -> None:
    changes, reason = REFUSED[kind]
    with pytest.raises(ModelFileError, match=reason):
        load_tokenizer(_byte_level(**changes))


def test_vocabulary_without_any_end_is_refused() -> None:
    metadata = tiny_sentencepiece()
    del metadata["tokenizer.ggml.eos_token_id"]
    with pytest.raises(ModelFileError, match=r"wanted tokenizer\.ggml\.eos_token_id"):
        load_tokenizer(metadata)
