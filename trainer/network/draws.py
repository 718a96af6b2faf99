"""Random numbers keyed by what they are for, so that neither the order of drawing nor the placement decides them."""

import hashlib

import torch


def generator(device: torch.device, *key: int | str) -> torch.Generator:
    """A generator on `device` seeded by `key`. Equal keys draw equal numbers, on one kind of device."""
    digest = hashlib.blake2b("|".join(map(str, key)).encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little") >> 1)
