"""`Experts`: a feed-forward half of many gated MLPs, of which a router chooses a few per token."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import PartitionSpec

from lm_research.layers.einsum import (
    Einsum,
    Initializer,
    matmul,
    one_cpu,
    one_device,
    row_major,
    shard,
    stream_dtype,
    transposed_matmul,
)
from lm_research.layers.mlp import ACTIVATIONS, Activation
from lm_research.layers.parameter import parameter
from lm_research.layers.tap import tap
from lm_research.mesh import axes_of, names_of, parts
from lm_research.target import target

Array = jax.Array
BLOCK = 128  # rows that a CPU multiplies by one matrix, at least, or it would copy too often
PADDING = 8  # such blocks of each expert where rows are many, so that the last is an eighth at most


class Experts(nn.Module):
    """Shazeer et al. (2017), as in Mixtral (Jiang et al., 2024).

    Every token goes to all experts that the router chooses for it, however many tokens choose the
    same one: none is dropped, and no capacity is set. Taps `preference` [B, T, E], the logits, and
    `chosen` [B, T, active], the experts.

    Attributes:
      experts: E.
      active: how many of them read each token.
      hidden: F of each.
      normalized: whether the weights of those chosen sum to one.
      activation, initializer, out_initializer, dtype: as in `GatedMLP`.
    """

    experts: int
    active: int
    hidden: int
    normalized: bool = True
    activation: Activation = "silu"
    initializer: Initializer | None = None
    out_initializer: Initializer | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:  # [B, T, D]
        D, E, F = x.shape[-1], self.experts, self.hidden
        # Float32 whatever the dtype: a choice is not to hang on rounding (Fedus et al., 2022).
        router = Einsum("BTD,DE->BTE", (D, E), False, self.initializer, name="router")
        logits = tap(self, "preference", router(x))
        weights, chosen = jax.lax.top_k(jax.nn.softmax(logits), self.active)  # [B, T, active]
        if self.normalized:
            weights = weights / weights.sum(-1, keepdims=True)
        chosen = tap(self, "chosen", chosen)
        kernels = tuple(
            Kernels(axes, shape, initializer, name=f"experts_{name}")()
            for name, axes, shape, initializer in (
                ("gate", "EDF", (E, D, F), self.initializer),
                ("up", "EDF", (E, D, F), self.initializer),
                ("down", "EFD", (E, F, D), self.out_initializer),
            )
        )
        mixed = functools.partial(_mixed, self.activation, self.dtype)
        if not one_device():
            mesh = jax.sharding.get_abstract_mesh()
            mixed = _sharded(mixed, mesh, *x.shape[:2])
        y = mixed(x, chosen, weights, *kernels).astype(stream_dtype(self.dtype))
        return shard(y, ("B", "T", "D"))


class Kernels(nn.Module):
    """A matrix for each expert."""

    axes: str
    shape: tuple[int, ...]
    initializer: Initializer | None

    @nn.compact
    def __call__(self) -> Array:
        init = self.initializer or nn.initializers.lecun_normal(batch_axis=0)
        return parameter(self, "kernel", init, self.axes, self.shape)


def _sharded(mixed, mesh: jax.sharding.AbstractMesh, rows: int, length: int):
    """`mixed` where each part of the mesh has some experts, or a part of each, and adds up.

    Every part sees all tokens of its row of the mesh and computes what its own experts say of them:
    so nothing is dropped, and no shape depends on who chose whom.
    """
    rules = nn.get_logical_axis_rules()
    experts, _, hidden = nn.logical_to_mesh_axes(("E", "D", "F"), rules)
    batch, positions = axes_of("B"), axes_of("T")
    own = names_of(experts)
    # Undivided: the two tokens that a model starts from, prompts one by one, a token to decode.
    batch = () if rows % parts(batch) else tuple(name for name in batch if name not in own)
    tokens = PartitionSpec(batch, () if length % parts(positions) else positions)
    inward = PartitionSpec(experts, None, hidden)

    def local(x, chosen, weights, gate, up, down):
        first = jax.lax.axis_index(own) * gate.shape[0] if own else 0
        y = mixed(x, chosen - first, weights, gate, up, down)
        return jax.lax.psum(y, (*own, *names_of(hidden)))

    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(tokens, tokens, tokens, inward, inward, PartitionSpec(experts, hidden, None)),
        out_specs=tokens,
        check_vma=False,
    )


def _mixed(activation, dtype, x, chosen, weights, gate, up, down) -> Array:
    """What the experts at hand say of tokens [B, T, D]; a choice of any other adds nothing."""
    B, T, D = x.shape
    groups = Groups.of(chosen.reshape(-1), gate.shape[0])
    # Rows are copied once for each choice, and lie together by expert.
    rows = jnp.broadcast_to(x[:, :, None], (B, T, chosen.shape[-1], D)).reshape(-1, D)
    rows = moved(rows, groups.source, groups.slot)
    y = ACTIVATIONS[activation](groups.product(rows, gate, dtype))
    y = groups.product(y * groups.product(rows, up, dtype), down, dtype)
    y = moved(y, groups.slot, groups.source).reshape(B, T, -1, D)
    return (y * weights[..., None].astype(y.dtype)).sum(2)


@struct.dataclass
class Groups:
    """How choices lie, one row each, together by expert.

    Attributes:
      slot: the row of each choice; out of range for one of no expert that is at hand.
      source: the choice of each row; out of range for a row of padding.
      sizes: rows of each expert, in order.
      block: what they are multiples of.
    """

    slot: Array  # [choices]
    source: Array  # [rows]
    sizes: Array  # [E]
    block: int = struct.field(pytree_node=False)

    @classmethod
    def of(cls, chosen: Array, experts: int) -> "Groups":
        """Of choices [choices], each an expert from 0 to `experts`, or any other number."""
        count = len(chosen)
        block = _block(count, experts) if one_cpu() else 1
        chosen = jnp.where((chosen >= 0) & (chosen < experts), chosen, experts)
        order = jnp.argsort(chosen, stable=True)
        rank = jnp.zeros_like(order).at[order].set(jnp.arange(count), unique_indices=True)
        counts = jnp.bincount(chosen, length=experts + 1)
        before = lambda sizes: jnp.cumsum(sizes) - sizes
        sizes = -(-counts // block) * block
        rows = -(-count // block) * block + experts * block * (block > 1)
        slot = before(sizes)[chosen] + rank - before(counts)[chosen]
        slot = jnp.where(chosen < experts, slot, rows)
        source = jnp.full(rows, count).at[slot].set(jnp.arange(count), mode="drop")
        return cls(slot, source, sizes[:experts].astype(jnp.int32), block)

    def product(self, x: Array, kernels: Array, dtype: Any) -> Array:
        """Each row of x times the matrix of its expert."""
        if not one_cpu():
            x, kernels = x.astype(dtype), kernels.astype(dtype)
            if not target().here:  # a CPU would multiply every row with every matrix
                return jnp.einsum("BD,DF->BF", x, kernels.sum(0)).astype(stream_dtype(dtype))
            y = jax.lax.ragged_dot(
                x, kernels, self.sizes, preferred_element_type=stream_dtype(dtype)
            )
            known = jnp.arange(len(x)) < self.sizes.sum()  # the others' result is not defined
            return jnp.where(known[:, None], y, 0)
        ends = jnp.cumsum(self.sizes) // self.block
        blocks = x.astype(dtype).reshape(-1, self.block, x.shape[-1])
        owner = jnp.searchsorted(ends, jnp.arange(len(blocks)), side="right")
        owned = owner[:, None] == jnp.arange(len(kernels))  # none owns the padding at the end
        return _blocks_product(blocks, kernels, owned).reshape(len(x), -1)


def _block(count: int, experts: int) -> int:
    """Rows in a block, for so many choices of experts."""
    most = max(1, 2 * count // (PADDING * experts))  # where rows are few, a quarter may be padding
    return max(min(BLOCK, most), most // 2)


@jax.custom_vjp
def moved(x: Array, there: Array, back: Array) -> Array:
    """Rows of x by their index, zeros where it is out of range; `back` is the inverse.

    So the gradient gathers, too, where that of a plain index would scatter, which is slow.
    """
    del back
    return x.at[there].get(mode="fill", fill_value=0)


moved.defvjp(
    lambda x, there, back: (moved(x, there, back), (there, back)),
    lambda saved, gradient: (moved(gradient, saved[1], saved[0]), None, None),
)


@jax.custom_vjp
def _blocks_product(blocks: Array, kernels: Array, owned: Array) -> Array:
    """Blocks of rows, each times the matrix of the one expert that owns it.

    XLA's CPU backend computes `ragged_dot` as a product of every row with every matrix; blocks
    cost no more than a batched product, and a copy of its matrix for each.
    """
    return _blocks_forward(blocks, kernels, owned)[0]


def _blocks_forward(blocks, kernels, owned):
    kernels = kernels.astype(blocks.dtype)[jnp.argmax(owned, -1)]
    return matmul(blocks, kernels), (blocks, kernels, owned)


def _blocks_backward(saved, gradient):
    blocks, kernels, owned = saved
    gradient = gradient.astype(blocks.dtype)
    blocks_gradient = matmul(gradient, kernels, transposed=True).astype(blocks.dtype)
    each = matmul(row_major(jnp.swapaxes(blocks, 1, 2)), gradient)
    # Added up by a product: a scatter would copy.
    total = transposed_matmul(owned.astype(jnp.float32), each.reshape(len(each), -1))
    return blocks_gradient, total.reshape(-1, *each.shape[1:]), None


_blocks_product.defvjp(_blocks_forward, _blocks_backward)
