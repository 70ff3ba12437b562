"""Any objective, and beside it what keeps a router from sending all tokens to the same experts."""

import dataclasses
from typing import Any, Literal, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lm_research import tree
from lm_research.layers import Experts
from lm_research.metrics import Mean

Array = jax.Array
Example = dict[str, np.ndarray]


@runtime_checkable
class Objective(Protocol):
    """What `Balanced` adds to."""

    length: int

    def example(self, record: Example, rng: np.random.Generator) -> Example: ...

    def measure(self, model, params, batch, rngs=None) -> dict[str, Mean]: ...


@dataclasses.dataclass(frozen=True)
class Balanced:
    """loss + balance * load balance + z * router z-loss, each the mean over layers with experts.

    The load balance (Fedus et al., 2022, equations 4 to 6) is E times the sum over experts of the
    choices that they got per token and of their mean probability; it is the number of active
    experts where all get the same. It is no sum over examples, so it says over what it is taken:
    each "sequence" for itself (DeepSeek-AI, 2024, section 2.1.2), weighed by its targets, which any
    number of microbatches leaves alone; or the whole "batch", which refuses microbatches. The
    z-loss (Zoph et al., 2022, equation 5) is the mean over tokens of the squared log-partition of
    the router's logits. Both count every token of a row that has targets.

    Attributes:
      objective: what is trained.
      balance, z: factors.
      over: what the load balance is taken over.
    """

    objective: Objective
    balance: float = 0.01
    z: float = 0.001
    over: Literal["sequence", "batch"] = "sequence"

    @property
    def length(self) -> int:
        """T of the objective."""
        return self.objective.length

    @property
    def likelihood(self) -> bool:
        """As the objective's: `cross_entropy` stands beside the loss."""
        return self.objective.likelihood

    @property
    def prefix(self) -> bool:
        """Whether texts are to be continued from a prefix."""
        return getattr(self.objective, "prefix", False)

    @property
    def indivisible(self) -> str:
        """Why a batch cannot be cut into microbatches; empty where it can."""
        if self.over == "sequence":
            return ""
        return "the load balance is taken over the whole batch (objective.over; take 'sequence')"

    def refusal(self, model: nn.Module) -> str:
        """Why this cannot train `model`; empty where it can."""
        blocks = model.stack.period if hasattr(model, "stack") else ()
        if not any(isinstance(block.mlp, Experts) for block in blocks):
            return "it has no router whose load could be balanced; take a Mixtral"
        return self.objective.refusal(model)

    def bound(self, tokenizer: Any) -> "Balanced":
        """With the special tokens that the objective needs."""
        return dataclasses.replace(self, objective=self.objective.bound(tokenizer))

    def example(self, record: Example, rng: np.random.Generator) -> Example:
        """The objective's."""
        return self.objective.example(record, rng)

    def measure(
        self, model: nn.Module, params: Any, batch: dict[str, Array], rngs: dict | None = None
    ) -> dict[str, Mean]:
        """The objective's loss with both terms, and each of them by itself."""
        listened = Listening(model)
        measured = self.objective.measure(listened, params, batch, rngs)
        weights = batch["weights"].sum(-1)  # [B]
        balance, z = router_losses(listened.taps, weights, self.over)
        loss, weight = measured["loss"], weights.sum()
        total = loss.total + loss.weight * (self.balance * balance + self.z * z)
        return {
            "cross_entropy": loss,
            **measured,
            "loss": Mean(total, loss.weight),
            "load_balance": Mean(balance * weight, weight),
            "router_z": Mean(z * weight, weight),
        }


def router_losses(taps: Any, weights: Array, over: str) -> tuple[Array, Array]:
    """Load balance and z-loss of what `Experts` tap, means over layers and over rows [B]."""
    found = tree.named_leaves(taps)
    share = weights / jnp.maximum(weights.sum(), 1e-9)  # [B]
    terms = []
    for name, logits in found.items():
        if not name.endswith("/preference"):
            continue
        # Stacked layers are [L, B, T, E], one layer alone [B, T, E].
        logits = logits.reshape(-1, *logits.shape[-3:])
        chosen = found[name.removesuffix("preference") + "chosen"]
        chosen = chosen.reshape(*logits.shape[:-1], -1)
        got = jax.nn.one_hot(chosen, logits.shape[-1]).sum(-2).mean(2)  # [L, B, E]
        likely = jax.nn.softmax(logits).mean(2)
        if over == "batch":
            got, likely = (jnp.einsum("LBE,B->LE", x, share)[:, None] for x in (got, likely))
        balance = logits.shape[-1] * (got * likely).sum(-1)  # [L, B], or [L, 1]
        z = jnp.square(jax.nn.logsumexp(logits, -1)).mean(-1)
        balance = balance[:, 0] if over == "batch" else balance @ share
        terms.append(jnp.stack([balance, z @ share]))
    return tuple(jnp.concatenate(terms, 1).mean(1))


class Listening:
    """A model that keeps what it taps when it is applied, and is otherwise the model."""

    def __init__(self, model: nn.Module):
        self._model, self.taps = model, None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def apply(self, variables: Any, *given: Any, **options: Any) -> Any:
        """The model's output."""
        output, state = self._model.apply(variables, *given, mutable=["taps"], **options)
        self.taps = state["taps"]
        return output
