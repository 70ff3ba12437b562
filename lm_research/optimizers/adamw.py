"""AdamW (Loshchilov and Hutter, 2019)."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import optax

from lm_research.optimizers.decay import UNDECAYED, decayed
from lm_research.optimizers.schedule import Schedule


@dataclasses.dataclass(frozen=True)
class AdamW(Schedule):
    """Adam with decoupled weight decay.

    Attributes:
      b1, b2: decay rates of the moments.
      epsilon: added to the root of the second moment.
      decay: weight decay, multiplied with the learning rate as in PyTorch.
      skip: parameters in whose names this regular expression is found do not decay.
    """

    b1: float = 0.9
    b2: float = 0.95
    epsilon: float = 1e-8
    decay: float = 0.1
    skip: str = UNDECAYED

    def build(self, steps: int) -> optax.GradientTransformation:
        """The transformation for a run of `steps` steps."""
        return self.clipped(
            optax.chain(
                scale_by_adam(self.b1, self.b2, self.epsilon),
                optax.add_decayed_weights(self.decay, decayed(self.skip)),
                optax.scale_by_learning_rate(self.learning_rate(steps)),
            )
        )


def scale_by_adam(b1: float, b2: float, epsilon: float) -> optax.GradientTransformation:
    """Adam (Kingma and Ba, 2015) with exact bias corrections; its state is that of Optax's.

    Optax takes 1 - b2**t in float32, of which up to 2e-5 is lost at b2 = 0.999, and half of that of
    every step that is made; so does a run drift from the same run in PyTorch, which takes it in
    float64.
    """

    def unbiased(moments: optax.Params, rate: float, count: jax.Array) -> optax.Params:
        correction = -jnp.expm1(count * math.log(rate)) if rate else 1.0
        return jax.tree.map(lambda moment: moment / correction, moments)

    def update(
        gradients: optax.Updates, state: optax.ScaleByAdamState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.ScaleByAdamState]:
        del params
        count = optax.safe_increment(state.count)
        mu = optax.tree.update_moment(gradients, state.mu, b1, 1)
        nu = optax.tree.update_moment_per_elem_norm(gradients, state.nu, b2, 2)
        step = lambda first, second: first / (jnp.sqrt(second) + epsilon)
        steps = jax.tree.map(step, unbiased(mu, b1, count), unbiased(nu, b2, count))
        return steps, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(optax.scale_by_adam(b1, b2, epsilon).init, update)
