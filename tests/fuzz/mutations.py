"""Mutations that know a file's fields, so that damage reaches past the first check.

A file is a list of fields: the bytes of one number, text or run of data each. Knows no format.
"""

from __future__ import annotations

import random
from collections.abc import Callable

Fields = list[bytes]

_EDGES = [0, 1, 2, 3, 7, 8, 31, 32, 33, 63, 64, 255, 256]
_EDGES += [2**power + near for power in (16, 31, 32, 61, 62, 63, 64) for near in (-1, 0)]


def mutate(fields: Fields, rng: random.Random) -> bytes:
    """One to three mutations, then sometimes a cut: the bytes of a damaged file."""
    fields = list(fields)
    for _ in range(rng.choice((1, 1, 2, 3))):
        rng.choice(_MUTATIONS)(fields, rng)
    content = b"".join(fields)
    if rng.random() < 0.1:
        return content[: rng.randrange(len(content) + 1)]
    return content


def _set_edge(fields: Fields, rng: random.Random) -> None:
    place = rng.randrange(len(fields))
    size = len(fields[place])
    if size in {1, 2, 4, 8}:
        fields[place] = (rng.choice(_EDGES) % 256**size).to_bytes(size, "little")


def _add_little(fields: Fields, rng: random.Random) -> None:
    place = rng.randrange(len(fields))
    size = len(fields[place])
    if size in {1, 2, 4, 8}:
        value = int.from_bytes(fields[place], "little") + rng.randint(-40, 40)
        fields[place] = (value % 256**size).to_bytes(size, "little")


def _flip_bits(fields: Fields, rng: random.Random) -> None:
    place = rng.randrange(len(fields))
    content = bytearray(fields[place])
    for _ in range(rng.randint(1, 4) if content else 0):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    fields[place] = bytes(content)


def _drop(fields: Fields, rng: random.Random) -> None:
    if len(fields) > 1:
        del fields[rng.randrange(len(fields))]


def _repeat(fields: Fields, rng: random.Random) -> None:
    start = rng.randrange(len(fields))
    run = fields[start : start + rng.randint(1, 8)]
    fields[start:start] = run * rng.choice((1, 1, 1, 20))


def _swap(fields: Fields, rng: random.Random) -> None:
    a, b = rng.randrange(len(fields)), rng.randrange(len(fields))
    fields[a], fields[b] = fields[b], fields[a]


def _insert_noise(fields: Fields, rng: random.Random) -> None:
    fields.insert(rng.randrange(len(fields) + 1), rng.randbytes(rng.choice((1, 4, 8, 40))))


_MUTATIONS: tuple[Callable[[Fields, random.Random], None], ...] = (
    _set_edge,
    _set_edge,
    _add_little,
    _flip_bits,
    _drop,
    _repeat,
    _swap,
    _insert_noise,
)
