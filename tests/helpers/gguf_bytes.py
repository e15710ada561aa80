"""Pieces of GGUF files, byte by byte, for what no writer would write."""

import struct


def text(content: bytes) -> bytes:
    return struct.pack("<Q", len(content)) + content


def key(name: bytes, value_type: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", value_type) + value


def tensor(
    name: bytes = b"t", dims: tuple[int, ...] = (32,), ggml_type: int = 0, offset: int = 0
) -> bytes:
    numbers = struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, ggml_type, offset)
    return text(name) + numbers


def header(
    num_tensors: int = 0, num_keys: int = 0, *, magic: bytes = b"GGUF", version: int = 3
) -> bytes:
    return magic + struct.pack("<IQQ", version, num_tensors, num_keys)


def file(
    *keys: bytes, tensors: tuple[bytes, ...] = (), data: bytes = bytes(128), alignment: int = 32
) -> bytes:
    body = header(len(tensors), len(keys)) + b"".join(keys) + b"".join(tensors)
    return body + bytes(-len(body) % alignment) + data
