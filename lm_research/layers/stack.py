"""`Block`, a residual pair of attention and MLP, and `Stack`, which repeats a period of blocks."""

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm_research import log
from lm_research.layers.attention import Attention
from lm_research.layers.dropout import Dropout
from lm_research.layers.einsum import shard
from lm_research.layers.mask import Mask
from lm_research.layers.pipeline import pipelined, stages
from lm_research.layers.position import Bias
from lm_research.layers.tap import tap
from lm_research.target import target

Array = jax.Array
Wiring = Literal["pre", "post", "sandwich", "reordered", "parallel", "parallel_norms"]
Remat = Literal["none", "dots", "full"]
Execution = Literal["auto", "scan", "unroll", "separate"]

BLOCK = re.compile(r"((?:.*/)?)((?:blocks|rest)(?:_\d+)?|first)/(.*)")  # a parameter in a stack
RECORDED = "taps", "intermediates"  # collections in which a call leaves what it computed
UNROLLED = 24  # layers up to which unrolling a stack on CPU is worth its compile time


class Block(nn.Module):
    """Attention and MLP, each added to the residual stream.

    Attributes:
      attention: attends to the block's input.
      mlp: follows it.
      norm: normalises the input of both (`pre`; `parallel`: once, for both; `parallel_norms`: for
        each), each sum (`post`), their results (`reordered`), or input and result (`sandwich`).
      wiring: pre: x + f(norm(x)); post: norm(x + f(x)); reordered: x + norm(f(x)); sandwich:
        x + norm(f(norm(x))); parallel: x + attention(norm(x)) + mlp(norm(x)).
      dropout: rate on what is added to the stream.
      cross: attends to an encoder's output, between the two.
      bare: whether attention reads the stream as it is (`pre`), which is normalised already.
    """

    attention: Attention
    mlp: nn.Module
    norm: nn.Module
    wiring: Wiring = "pre"
    dropout: float = 0.0
    cross: Attention | None = None
    bare: bool = False

    @nn.compact
    def __call__(
        self,
        x: Array,  # [B, T, D]
        cache: Any,
        position: Array,  # [B, T]
        mask: Mask,
        bias: Bias | None = None,
        memory: Array | None = None,  # [B, S, D]
        memory_mask: Mask | None = None,
    ) -> tuple[Array, Any]:
        """The stream after this block, and its extended cache."""
        caching = cache is not None
        own, crossed = cache if caching and self.cross is not None else (cache, None)

        def attend(y):
            nonlocal own
            y, own = self.attention(y, position, mask, bias, own)
            return y

        def cross(y):
            nonlocal crossed
            y, crossed = self.cross(y, position, memory_mask or Mask(), None, crossed, memory)
            return y

        if self.wiring in ("parallel", "parallel_norms"):
            y = z = self.norm.copy(name="attention_norm")(x)
            if self.wiring == "parallel_norms":
                z = self.norm.copy(name="mlp_norm")(x)
            x = x + Dropout(self.dropout)(attend(y) + self.mlp(z))
        else:
            plain = self.bare and self.wiring == "pre"
            x = (
                x + Dropout(self.dropout)(attend(x))
                if plain
                else self._residual("attention", attend, x)
            )
            if self.cross is not None:
                x = self._residual("cross", cross, x)
            x = self._residual("mlp", self.mlp, x)
        x = tap(self, "residual", x)
        states = own if self.cross is None else (own, crossed)
        return shard(x, ("B", "T", "D")), states if caching else None

    def _residual(self, name: str, function, x: Array) -> Array:
        norm, dropout = self.norm.copy(name=f"{name}_norm"), Dropout(self.dropout)
        if self.wiring == "post":
            return norm(x + dropout(function(x)))
        y = norm(function(x)) if self.wiring == "reordered" else function(norm(x))
        if self.wiring == "sandwich":
            y = self.norm.copy(name=f"{name}_out_norm")(y)
        return x + dropout(y)

    def init_cache(self, batch: int, length: int) -> Any:
        """What this block's attention remembers, empty; of an encoder's output nothing yet."""
        own = self.attention.init_cache(batch, length)
        return own if self.cross is None else (own, None)


class Period(nn.Module):
    """Blocks of a stack, one after another; their parameters are the stack's."""

    blocks: tuple[nn.Module, ...]
    remat: Remat

    def __call__(self, x: Array, states: tuple, given: tuple) -> tuple[Array, tuple]:
        """The stream after them, and their new states."""
        new = []
        for block, state in zip(self.blocks, states, strict=True):
            x, state = _rematerialized(self.remat)(block, x, state, *given)
            new.append(state)
        return x, tuple(new)


class Stack(nn.Module):
    """`layers` blocks, made by repeating `period`; the last repetition may be a part of it.

    Parameters are stacked [L, ...] for each block of the period, whether the repetitions are
    scanned (compile time does not grow with depth) or unrolled (faster on CPU): a checkpoint made
    one way continues the other way. Layers that remain after the last whole period have stacks of
    their own, of one layer each (see `places`). `separate` keeps each layer's parameters apart, for
    decoding (see `separated`): a loop over tokens would copy slices of stacked parameters at every
    token.

    Attributes:
      layers: L.
      period: the blocks that are repeated.
      opening: the first layer, where it is another; the period begins after it.
      execution: `auto` scans, but unrolls a shallow stack on CPU.
      remat: what the backward pass computes again: nothing, all but matrix products, or whole
        blocks.
    """

    layers: int
    period: tuple[nn.Module, ...]
    execution: Execution = "auto"
    remat: Remat = "none"
    opening: nn.Module | None = None

    @nn.compact
    def __call__(self, x: Array, cache: tuple | None, *given: Any) -> tuple[Array, tuple | None]:
        """Runs the blocks on x [B, T, D]; `cache` has a state per layer, `given` goes to each."""
        if self.execution == "separate":
            return self._separate(x, cache, given)
        unroll = unrolled(self.execution, self.layers)
        log.note(stack="unrolled" if unroll else "scanned", remat=self.remat)
        states = ()
        for names, repeats in runs(self.layers, len(self.period), self.opening is not None):
            here = cache and cache[len(states) : len(states) + repeats * len(names)]
            x, new = self._repeated(names, repeats, unroll, x, here, given)
            states += new
        return x, cache and states

    def _repeated(self, names, repeats, unroll, x, cache, given):
        """The blocks called `names`, one after another, so many times."""
        P = len(names)
        chosen = (self.opening,) if names == ("first",) else self.period
        blocks = tuple(block.copy(name=name) for name, block in zip(names, chosen))
        if cache is None and repeats > 1 and self._pipelines():
            return self._in_stages(names, chosen, x, given), (None,) * (repeats * P)
        scan = nn.scan(
            lambda period, x, states: period(x, states, given),
            variable_axes={"params": 0, "taps": 0, "patches": 0, "intermediates": 0},
            split_rngs={"params": True, "dropout": True},
            length=repeats,
            unroll=repeats if unroll else 1,
            metadata_params={nn.PARTITION_NAME: "L"},
        )
        period = Period(blocks, self.remat, name=f"period_of_{names[0]}")
        if cache is None:
            return scan(period, x, (None,) * P)[0], (None,) * (repeats * P)
        stacked = tuple(jax.tree.map(lambda *a: jnp.stack(a), *cache[i::P]) for i in range(P))
        x, states = scan(period, x, stacked)
        layer = lambda i: jax.tree.map(lambda a: a[i // P], states[i % P])
        return x, tuple(layer(i) for i in range(repeats * P))

    def _pipelines(self) -> bool:
        """Whether stages of the mesh have the layers, each its own."""
        if stages() == 1 or self.is_initializing():
            return False
        if not any(self.is_mutable_collection(name) for name in RECORDED):
            return True
        log.fallback("layers in stages (mesh.pipeline)", "all layers everywhere", "taps are read")
        return False

    def _in_stages(self, names, blocks, x, given):
        """The blocks called `names`, one after another, as `pipelined` has them."""
        params = {name: self.variables["params"][name] for name in names}
        key = self.make_rng("dropout") if self.has_rng("dropout") else None

        def layer(params, x, given, key):
            for i, (name, block) in enumerate(zip(names, blocks)):
                rngs = {} if key is None else {"dropout": jax.random.fold_in(key, i)}
                alone = block.clone(parent=None)
                call = functools.partial(_called, alone, rngs)
                x = _checkpointed(jax.checkpoint, self.remat, call)(params[name], x, *given)
            return x

        return pipelined(layer, params, x, given, key)

    def _separate(self, x, cache, given):
        states = []
        for i in range(self.layers):
            block = self._block(i).copy(name=f"layer_{i}")
            x, state = block(x, cache and cache[i], *given)
            states.append(state)
        return x, cache and tuple(states)

    def init_cache(self, batch: int, length: int) -> tuple:
        """An empty state for each layer."""
        return tuple(self._block(i).init_cache(batch, length) for i in range(self.layers))

    def _block(self, layer: int) -> nn.Module:
        if self.opening is None:
            return self.period[layer % len(self.period)]
        return self.period[(layer - 1) % len(self.period)] if layer else self.opening


class Repeated(nn.Module):
    """A block several times over: layers that share their parameters (Lan et al., 2020).

    Attributes:
      block: what is repeated.
      times: how often.
      execution, remat: as of a `Stack`, but that nothing is ever `separate`.
    """

    block: nn.Module
    times: int
    execution: Execution = "auto"
    remat: Remat = "none"

    @nn.compact
    def __call__(self, x: Array, cache: Any, *given: Any) -> tuple[Array, Any]:
        """Runs the block on x [B, T, D] again and again; states in `cache` are stacked."""
        if stages() > 1:
            asked, why = "layers in stages (mesh.pipeline)", "they share their parameters"
            log.fallback(asked, "all layers everywhere", why)
        scan = nn.scan(
            lambda block, x, state: _rematerialized(self.remat)(block, x, state, *given),
            variable_axes={"taps": 0, "patches": 0, "intermediates": 0},
            variable_broadcast="params",
            split_rngs={"params": False, "dropout": True},
            length=self.times,
            unroll=self.times if unrolled(self.execution, self.times) else 1,
        )
        return scan(self.block, x, cache)

    def init_cache(self, batch: int, length: int) -> Any:
        """An empty state for each time, stacked."""
        state = self.block.init_cache(batch, length)
        return jax.tree.map(lambda a: jnp.broadcast_to(a, (self.times, *a.shape)), state)


def unrolled(execution: Execution, layers: int) -> bool:
    """Whether so many layers are unrolled."""
    shallow = target().backend == "cpu" and layers <= UNROLLED
    return execution in ("unroll", "separate") or (execution == "auto" and shallow)


def runs(layers: int, period: int, first: bool = False) -> list[tuple[tuple[str, ...], int]]:
    """What the stacked blocks of whole periods are called, and those that remain; and how often.

    `first` where the first layer is another, once; `blocks` where the period is one block, else
    `blocks_0`, `blocks_1` and so on; then `rest_0` and so on, once.
    """
    repeats, rest = divmod(layers - first, period)
    names = ("blocks",) if period == 1 else tuple(f"blocks_{i}" for i in range(period))
    found = [(("first",), int(first)), (names, repeats)]
    found += [(tuple(f"rest_{i}" for i in range(rest)), 1)]
    return [(names, repeats) for names, repeats in found if names and repeats]


def places(layers: int, period: int, first: bool = False) -> list[tuple[str, int]]:
    """Where each layer's parameters are: the stacked block, and the row in it."""
    return [
        (name, row)
        for names, repeats in runs(layers, period, first)
        for row in range(repeats)
        for name in names
    ]


def shortest_period(kinds: Sequence) -> tuple:
    """The shortest beginning of a sequence, a kind for each layer, that makes it when repeated."""
    return next(
        tuple(kinds[:n])
        for n in range(1, len(kinds) + 1)
        if all(kind == kinds[i % n] for i, kind in enumerate(kinds))
    )


def period_of(names: Iterable[str], layers: int) -> int:
    """The length of the period of a stack whose stacked blocks have these names."""
    return sum(name.startswith("blocks") for name in names) or layers + 1


def layers_after(rows: Mapping[str, int]) -> dict[str, list[int]]:
    """How many layers come after each row of a stack's parameters.

    Args:
      rows: of every parameter, or of the last layers' alone; those outside of stacks have no say.
    """
    blocks = {path: found for path in rows if (found := BLOCK.fullmatch(path))}
    counts: dict[str, dict[str, int]] = {}  # of each stack's blocks
    for path, block in blocks.items():
        counts.setdefault(block[1], {})[block[2]] = rows[path]
    after: dict[tuple[str, str], list[int]] = {}
    for stack, names in counts.items():
        # By row from the end, then by place in the period: right without the whole stack, too.
        order = sorted(
            (group, row - count, place, name)
            for name, count in names.items()
            for group, place in [_place(name)]
            for row in range(count)
        )
        for left, (*_, name) in zip(reversed(range(len(order))), order):
            after.setdefault((stack, name), []).append(left)
    return {path: after[block[1], block[2]] for path, block in blocks.items()}


def _place(name: str) -> tuple[int, int]:
    """Where stacked blocks come: the first one, those that are repeated, and the rest."""
    group = {"first": 0, "blocks": 1, "rest": 2}[name.split("_")[0]]
    return group, int(name.partition("_")[2] or 0)


def separated(stack: dict, layers: int) -> dict:
    """Stacked parameters of a `Stack`, as its execution `separate` takes them."""
    layer = lambda name, row: jax.tree.map(lambda a: a[row], stack[name])
    found = places(layers, period_of(stack, layers), "first" in stack)
    return {f"layer_{i}": layer(*place) for i, place in enumerate(found)}


def _called(block: nn.Module, rngs: dict[str, Array], params: Any, x: Array, *given: Any) -> Array:
    return block.apply({"params": params}, x, None, *given, rngs=rngs)[0]


def _rematerialized(remat: Remat):
    return _checkpointed(nn.remat, remat, lambda block, *arguments: block(*arguments))


def _checkpointed(transform, remat: Remat, call):
    """`call`, of which `transform` has the backward pass compute again what `remat` says."""
    if remat == "none":
        return call
    dots = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    return transform(call, prevent_cse=False, policy=dots if remat == "dots" else None)
