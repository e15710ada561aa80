"""Tests of derived tokenizers kept on disk."""

from pathlib import Path

from runtime.tokenizer import load_tokenizer
from tests.helpers.tiny_sentencepiece import tiny_sentencepiece

TEXT = "the 日本é🙂"


def test_derived_tokenizer_is_kept_and_taken_from_disk(tmp_path: Path) -> None:
    metadata = tiny_sentencepiece()
    fresh = load_tokenizer(metadata)
    kept = load_tokenizer(metadata, tmp_path)
    (file,) = (tmp_path / "tokenizers").iterdir()
    assert kept.json == fresh.json == file.read_text(encoding="utf-8")
    file.write_text(fresh.json.replace('"version"', ' "version"'), encoding="utf-8")
    assert load_tokenizer(metadata, tmp_path).json == file.read_text(encoding="utf-8")


def test_other_scores_or_spaces_are_other_tokenizers(tmp_path: Path) -> None:
    metadata = tiny_sentencepiece()
    scores = {**metadata, "tokenizer.ggml.scores": -metadata["tokenizer.ggml.scores"]}
    spaces = {**metadata, "tokenizer.ggml.add_space_prefix": False}
    for changed in (metadata, scores, spaces):
        load_tokenizer(changed, tmp_path)
    assert len(list((tmp_path / "tokenizers").iterdir())) == 3


def test_damaged_file_is_derived_anew(tmp_path: Path) -> None:
    metadata = tiny_sentencepiece()
    wanted = load_tokenizer(metadata, tmp_path).encode(TEXT)
    (file,) = (tmp_path / "tokenizers").iterdir()
    for damage in (b"\xff", b"", b'{"version": "1.0"'):
        file.write_bytes(damage)
        assert load_tokenizer(metadata, tmp_path).encode(TEXT) == wanted
        assert len(file.read_bytes()) > 1000


def test_cache_that_cannot_be_written_costs_no_answer(tmp_path: Path) -> None:
    (tmp_path / "tokenizers").write_text("a file, not a folder", encoding="utf-8")
    metadata = tiny_sentencepiece()
    assert load_tokenizer(metadata, tmp_path).json == load_tokenizer(metadata).json
