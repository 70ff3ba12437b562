"""A stateless shuffle: where an index goes is computed, never stored."""

import functools

import numpy as np

_ROUNDS = 6
_WORD = 2**64
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def permuted(
    index: np.ndarray | int, size: int, seed: int, epoch: np.ndarray | int = 0
) -> np.ndarray:
    """Where each `index` stands in the order of `epoch`: a bijection on range(size).

    An unbalanced Feistel network on the bits of `size`, walked until it lands inside (Black and
    Rogaway, 2002). It is integer arithmetic modulo 2**64 alone, so it is the same on every platform
    and with every version of numpy.

    Args:
      index: any shape, each in range(size).
      size: at most 2**62.
      seed: any integer.
      epoch: one for all, or one for each index; none below 0.

    Returns:
      int64 of the broadcast shape.

    Raises:
      IndexError: an index is outside.
    """
    index, epoch = np.broadcast_arrays(np.asarray(index, np.int64), np.asarray(epoch, np.int64))
    shape, index, epoch = index.shape, index.ravel(), epoch.ravel()
    if index.size and not (index.min() >= 0 and index.max() < size):
        raise IndexError(f"an index is outside range({size})")
    epochs, which = np.unique(epoch, return_inverse=True)
    keys = np.array([_keys(seed, e) for e in epochs.tolist()], np.uint64).reshape(-1, _ROUNDS)
    keys = keys.T[:, which]
    bits = max(2, (size - 1).bit_length())
    result = _feistel(index.astype(np.uint64), keys, bits)
    while (outside := result >= size).any():
        result[outside] = _feistel(result[outside], keys[:, outside], bits)
    return result.astype(np.int64).reshape(shape)


def _feistel(x: np.ndarray, keys: np.ndarray, bits: int) -> np.ndarray:
    low = np.uint64(bits // 2)
    masks = np.uint64(2 ** (bits - bits // 2) - 1), np.uint64(2 ** (bits // 2) - 1)
    halves = [x >> low, x & masks[1]]
    for number, key in enumerate(keys):
        to, by = number % 2, 1 - number % 2
        halves[to] = halves[to] ^ (_mixed(halves[by] + key) & masks[to])
    return halves[0] << low | halves[1]


def _mixed(x: np.ndarray) -> np.ndarray:
    """The finalizer of splitmix64 (Steele et al., 2014), on uint64 arrays."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(_FIRST)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(_SECOND)
    return x ^ (x >> np.uint64(31))


@functools.lru_cache(maxsize=64)
def _keys(seed: int, epoch: int) -> tuple[int, ...]:
    base = _scrambled(_scrambled(seed) + epoch)
    return tuple(_scrambled(base + number) for number in range(_ROUNDS))


def _scrambled(number: int) -> int:
    """One output of splitmix64, in Python's integers."""
    x = (number + 1) * 0x9E3779B97F4A7C15 % _WORD
    x = (x ^ (x >> 30)) * _FIRST % _WORD
    x = (x ^ (x >> 27)) * _SECOND % _WORD
    return x ^ (x >> 31)
