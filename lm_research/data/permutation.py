"""A stateless shuffle: where an index goes is computed, never stored."""

import numpy as np

_ROUNDS = 8
_MASK = 2**64 - 1


def permuted(index: np.ndarray | int, size: int, seed: int, epoch: np.ndarray | int = 0) -> np.ndarray:
    """Where each `index` stands in the order of `epoch`: a bijection on range(size).

    An unbalanced Feistel network on the bits of `size`, walked until it lands inside (Black and Rogaway, 2002). It is
    integer arithmetic modulo 2**64 alone, so it is the same on every platform and with every version of numpy.

    Args:
      index: any shape, each in range(size).
      size: at most 2**62.
      seed: any integer.
      epoch: one for all, or one for each index.

    Returns:
      int64 of the broadcast shape.
    """
    index, epoch = np.broadcast_arrays(np.asarray(index, np.int64), np.asarray(epoch, np.int64))
    shape = index.shape
    index, epoch = np.atleast_1d(index, epoch)  # numpy warns where a product of scalars wraps
    if index.size and not (0 <= index.min() and index.max() < size):
        raise IndexError(f"an index is outside range({size})")
    bits = max(2, (size - 1).bit_length())
    low = np.uint64(bits // 2)
    masks = [np.uint64((1 << (bits - bits // 2)) - 1), np.uint64((1 << (bits // 2)) - 1)]
    keys = _round_keys(seed, epoch)
    halves = [index.astype(np.uint64) >> low, index.astype(np.uint64) & masks[1]]
    result = _feistel(halves, keys, masks, low)
    while (outside := result >= np.uint64(size)).any():
        walked = result[outside]
        halves = [walked >> low, walked & masks[1]]
        result[outside] = _feistel(halves, [key[outside] for key in keys], masks, low)
    return result.astype(np.int64).reshape(shape)


def _round_keys(seed: int, epoch: np.ndarray) -> list[np.ndarray]:
    """A key per round: uint64 of the shape of `epoch`."""
    base = _mixed(epoch.astype(np.uint64) + np.uint64(_scrambled(seed)))
    return [_mixed(base + np.uint64(_scrambled(round_ + 1))) for round_ in range(_ROUNDS)]


def _mixed(x: np.ndarray) -> np.ndarray:
    """The finalizer of splitmix64 (Steele et al., 2014), on uint64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _scrambled(number: int) -> int:
    x = (number + 1) * 0x9E3779B97F4A7C15 & _MASK
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & _MASK
    return x ^ (x >> 31)


def _feistel(
    halves: list[np.ndarray], keys: list[np.ndarray], masks: list[np.uint64], low: np.uint64
) -> np.ndarray:
    halves = list(halves)
    for number, key in enumerate(keys):
        to, by = number % 2, 1 - number % 2
        halves[to] = halves[to] ^ (_mixed(halves[by] + key) & masks[to])
    return halves[0] << low | halves[1]
