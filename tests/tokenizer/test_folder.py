"""Tests of the tokenizers of safetensors folders."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import ModelFileError
from runtime.tokenizer import Tokenizer, load_folder_tokenizer, load_tokenizer
from tests.helpers.mixed_texts import mixed_texts
from tests.helpers.tiny_gguf import CHAT_TEMPLATE, IM_END_ID, IM_START_ID, tiny_vocabulary
from tests.helpers.tiny_sentencepiece import tiny_sentencepiece


def _write(folder: Path, tokenizer: Tokenizer, **files: Mapping[str, Any]) -> Path:
    (folder / "tokenizer.json").write_text(tokenizer.json, encoding="utf-8")
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_folder_gives_the_tokenizer_that_the_gguf_gives(tmp_path: Path) -> None:
    from_gguf = load_tokenizer(tiny_vocabulary())
    settings = {
        "bos_token": {"content": "<|im_start|>"},
        "eos_token": "<|im_end|>",
        "chat_template": CHAT_TEMPLATE,
    }
    folder = _write(
        tmp_path,
        from_gguf,
        tokenizer_config=settings,
        config={"vocab_size": 512, "eos_token_id": 2},
        generation_config={"eos_token_id": [2, 0]},
    )
    found = load_folder_tokenizer(folder)
    hidden = {"_backend": None, "_lock": None, "_next": None, "_token_bytes": ()}
    expected = vars(from_gguf) | {"vocab_size": 512, "chat_template": CHAT_TEMPLATE}
    assert vars(found) | hidden == expected | hidden
    assert (found.bos_id, found.eos_id) == (IM_START_ID, IM_END_ID)
    for text in mixed_texts()[:200]:
        assert found.encode(text) == from_gguf.encode(text)
        assert found.decode(found.encode(text)) == text
    assert found.decode([500, 511]) == from_gguf.decode([500])


def test_sentencepiece_folder_has_the_bytes_of_its_pieces(tmp_path: Path) -> None:
    from_gguf = load_tokenizer(tiny_sentencepiece())
    folder = _write(tmp_path, from_gguf, tokenizer_config={"eos_token": "</s>"})
    found = list(load_folder_tokenizer(folder)._token_bytes)
    found[found.index(b"[PAD]")] = b""  # only GGUF says that a piece is not used
    assert found == list(from_gguf._token_bytes)


def test_template_of_its_own_file_wins(tmp_path: Path) -> None:
    settings = {"eos_token": "<|im_end|>", "chat_template": "old"}
    folder = _write(tmp_path, load_tokenizer(tiny_vocabulary()), tokenizer_config=settings)
    assert load_folder_tokenizer(folder).chat_template == "old"
    (folder / "chat_template.jinja").write_text("new", encoding="utf-8")
    assert load_folder_tokenizer(folder).chat_template == "new"


def test_named_templates_give_the_default(tmp_path: Path) -> None:
    templates = [
        {"name": "tool_use", "template": "tools"},
        {"name": "default", "template": "chat"},
    ]
    settings = {"eos_token": "<|im_end|>", "chat_template": templates}
    folder = _write(tmp_path, load_tokenizer(tiny_vocabulary()), tokenizer_config=settings)
    assert load_folder_tokenizer(folder).chat_template == "chat"


REFUSED = [
    # (file, its content, reason)
    ("tokenizer.json", None, r"wanted a tokenizer\.json, found none"),
    ("tokenizer.json", b"{}", r"tokenizer\.json: damaged"),
    ("tokenizer.json", b"\xff", r"tokenizer\.json: cannot be read"),
    ("tokenizer_config.json", b"[]", r"tokenizer_config\.json: wanted a JSON object, found list"),
    ("config.json", b"{", r"config\.json: wanted JSON"),
    ("config.json", b'{"vocab_size": "x"}', r"vocabulary of 'x' .* makes no sense"),
    ("config.json", b'{"vocab_size": 99999999999}', r"vocabulary of 99999999999 .* makes no sense"),
]


@pytest.mark.parametrize(("name", "content", "reason"), REFUSED)
def test_damaged_folder_is_refused_with_its_reason(
    name: str, content: bytes | None, reason: str, tmp_path: Path
) -> None:
    folder = _write(tmp_path, load_tokenizer(tiny_vocabulary()))
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    with pytest.raises(ModelFileError, match=reason):
        load_folder_tokenizer(folder)
