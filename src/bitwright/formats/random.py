"""Counter-based random bits: Philox4x32-7 (Salmon et al., SC 2011), scalar reference and torch twin.

The draw of an element depends on nothing but (seed, tensor, step, call, element):

    key     = (seed, tensor)                                       two 32-bit words
    counter = (block mod 2^32, block / 2^32, step mod 2^32, call + 2^16 (step / 2^32))
    block   = element / 8;  each block gives 4 words = 8 draws of 16 bits, low half first

`element` is the row-major logical index, so that memory format and thread count change nothing.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bitwright.errors import InvalidValueError
from bitwright.formats.rounding import RANDOM_BITS, Draw

if TYPE_CHECKING:
    import torch

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_WORD = 0xFFFFFFFF
ROUNDS = 7
DRAWS_PER_BLOCK = 8


@dataclass(frozen=True)
class Key:
    """What names one tensor's random bits at one moment.

    Args:
        seed: 0 to 2^32 - 1.
        tensor: 0 to 2^32 - 1, or a name that is hashed to one.
        step: training step, 0 to 2^48 - 1.
        call: how often the same quantiser ran before in this step, 0 to 2^16 - 1.
        bits: random bits that each element takes, 1 to 16; the bias of a rounding is below 2^-bits of a step.
    """

    seed: int = 0
    tensor: int | str = 0
    step: int = 0
    call: int = 0
    bits: int = RANDOM_BITS

    def __post_init__(self) -> None:
        limits = (("seed", 32), ("step", 48), ("call", 16))
        for name, bits in limits:
            value = getattr(self, name)
            if not 0 <= value < 1 << bits:
                raise InvalidValueError(f"{name} of a Key lies in 0 to 2^{bits} - 1", got=value, where="Key")
        if not 1 <= self.bits <= RANDOM_BITS:
            raise InvalidValueError(f"bits of a Key lies in 1 to {RANDOM_BITS}", got=self.bits, where="Key")
        if isinstance(self.tensor, int) and not 0 <= self.tensor <= _WORD:
            raise InvalidValueError("tensor of a Key lies in 0 to 2^32 - 1", got=self.tensor)

    @property
    def words(self) -> tuple[int, int]:
        """The two key words of Philox."""
        tensor = tensor_id(self.tensor) if isinstance(self.tensor, str) else self.tensor
        return self.seed, tensor

    @property
    def tail(self) -> tuple[int, int]:
        """The counter's last two words."""
        return self.step & _WORD, self.call | (self.step >> 32) << 16


def tensor_id(name: str) -> int:
    """A 32-bit id of a tensor's qualified name; the same on every machine."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest(), "little")


def philox(counter: tuple[int, int, int, int], key: tuple[int, int], rounds: int = ROUNDS) -> tuple[int, ...]:
    """Four 32-bit words from a 128-bit counter and a 64-bit key: the scalar reference."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(rounds):
        p0, p1 = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & _WORD, (p0 >> 32) ^ c3 ^ k1, p0 & _WORD
        k0, k1 = (k0 + _WEYL[0]) & _WORD, (k1 + _WEYL[1]) & _WORD
    return c0, c1, c2, c3


def draw_scalar(key: Key, element: int) -> Draw:
    """The draw of one element: the high bits of its 16."""
    block, lane = divmod(element, DRAWS_PER_BLOCK)
    words = philox((block & _WORD, block >> 32, *key.tail), key.words)
    half = words[lane // 2] >> 16 * (lane % 2) & 0xFFFF
    return Draw(half >> RANDOM_BITS - key.bits, key.bits)


def draw(
    key: Key | torch.Tensor, shape: torch.Size, device: torch.device, bits: int | None = None
) -> torch.Tensor:
    """The draws of a tensor of that shape, int32 in [0, 2^bits): the torch twin of `draw_scalar`.

    Args:
        key: a key, or the int64 tensor (seed, tensor, step, call) that stands for one.
        shape, device: of the result.
        bits: random bits of each draw; None takes the key's.
    """
    import torch

    if isinstance(key, Key):
        bits = key.bits if bits is None else bits
        key = key_tensor(key)
    seed, tensor, step, call = key.to(device).unbind()
    count = shape.numel()
    blocks = torch.arange(-(-count // DRAWS_PER_BLOCK), dtype=torch.int64, device=device)
    c0, c1 = blocks & _WORD, blocks >> 32
    c2, c3 = (word.expand_as(blocks) for word in (step & _WORD, call | (step >> 32) << 16))
    k0, k1 = seed, tensor
    for _ in range(ROUNDS):
        # int64 products wrap modulo 2^64; shift-and-mask reads their unsigned halves
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1 = ((p1 >> 32) & _WORD) ^ c1 ^ k0, p1 & _WORD
        c2, c3 = ((p0 >> 32) & _WORD) ^ c3 ^ k1, p0 & _WORD
        k0, k1 = (k0 + _WEYL[0]) & _WORD, (k1 + _WEYL[1]) & _WORD
    halves = [half for word in (c0, c1, c2, c3) for half in (word & 0xFFFF, word >> 16)]
    draws = torch.stack(halves, dim=1).flatten()[:count].to(torch.int32).view(shape)
    return draws >> RANDOM_BITS - (RANDOM_BITS if bits is None else bits)


def key_tensor(key: Key) -> torch.Tensor:
    """A key as an int64 tensor (seed, tensor, step, call): what operators take, so that a compiled graph
    serves every step."""
    import torch

    seed, tensor = key.words
    return torch.tensor([seed, tensor, key.step, key.call], dtype=torch.int64)
