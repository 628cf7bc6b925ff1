"""Damage to bytes: what disks, networks and people who mean ill do to a file."""

from collections.abc import Callable
from random import Random

# Lengths, offsets and counts that readers trust.
NUMBERS = [0, 1, 0x7F, 0x80, 0xFF, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, -1]


def flip(data: bytearray, other: bytes, rng: Random) -> None:
    """A bit, or a few."""
    for _ in range(rng.choice([1, 1, 2, 8])):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def overwrite(data: bytearray, other: bytes, rng: Random) -> None:
    """A number that a reader may trust."""
    size = rng.choice([1, 2, 4, 8])
    number = rng.choice(NUMBERS) % 2 ** (8 * size)
    at = rng.randrange(len(data))
    data[at : at + size] = number.to_bytes(size, "little")[: len(data) - at]


def truncate(data: bytearray, other: bytes, rng: Random) -> None:
    del data[rng.randrange(len(data)) :]


def insert(data: bytearray, other: bytes, rng: Random) -> None:
    at, size = rng.randrange(len(data)), rng.choice([1, 2, 4, 8, 64])
    data[at:at] = rng.randbytes(size) if rng.random() < 0.5 else bytes([rng.randrange(256)]) * size


def delete(data: bytearray, other: bytes, rng: Random) -> None:
    at = rng.randrange(len(data))
    del data[at : at + rng.choice([1, 2, 4, 8, 64])]


def swap(data: bytearray, other: bytes, rng: Random) -> None:
    """Two blocks change places."""
    size = rng.choice([1, 4, 8, 16, 64, 256])
    i, j = (rng.randrange(len(data)) for _ in range(2))
    first, second = bytes(data[i : i + size]), bytes(data[j : j + size])
    data[i : i + size], data[j : j + size] = second, first


def splice(data: bytearray, other: bytes, rng: Random) -> None:
    """The beginning of one file and the end of another."""
    data[rng.randrange(len(data)) :] = other[rng.randrange(len(other)) :]


def graft(data: bytearray, other: bytes, rng: Random) -> None:
    """A block of another file in the place of one's own."""
    size, at, there = (
        rng.choice([4, 16, 64, 256]),
        rng.randrange(len(data)),
        rng.randrange(len(other)),
    )
    data[at : at + size] = other[there : there + size]


MUTATIONS: list[Callable[[bytearray, bytes, Random], None]] = [
    *(flip, overwrite, truncate, insert, delete, swap, splice, graft),
    *(flip, overwrite),  # which leave most of a file in its place, and so reach deepest
]


def mutant(data: bytes, other: bytes, rng: Random) -> bytes:
    """The bytes after one to four mutations.   other: a file to take parts from."""
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        if changed:
            rng.choice(MUTATIONS)(changed, other, rng)
    return bytes(changed)
