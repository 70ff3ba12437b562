"""Layers shared by every architecture.

One alphabet names dimensions everywhere: in einsum equations, in shape comments, and in the
sharding rules of `lm_research.mesh`.

    B batch   T target position   S source position   L layer
    D model   F feed-forward      V vocabulary        E expert
    N query heads   K key-value heads   H head size   C state size

G, the group of query heads that share a key-value head (N = K G), appears inside attention only. C
is also the width of embeddings that are not as wide as the model, and of what heads make of D.
"""

from lm_research.layers.attention import Attention, head_norm
from lm_research.layers.cache import HiddenMemory, KeyValue
from lm_research.layers.dropout import Dropout
from lm_research.layers.einsum import Einsum, product, shard, stream_dtype
from lm_research.layers.experts import Experts
from lm_research.layers.kernels import attend
from lm_research.layers.mask import EMPTY, Mask
from lm_research.layers.mlp import ACTIVATIONS, MLP, GatedMLP
from lm_research.layers.norm import LayerNorm, RMSNorm
from lm_research.layers.output import Head, Output, Transform
from lm_research.layers.parameter import parameter
from lm_research.layers.position import ALiBi, Bias, Learned, RelativeBias, Rotary, Sinusoidal
from lm_research.layers.recurrent import Recurrent, RecurrentBlock, StateSpace
from lm_research.layers.relative import RelativeAttention
from lm_research.layers.scaling import DynamicNTK, LinearScaling, Llama3Scaling, LongRoPE, YaRN
from lm_research.layers.stack import Block, Repeated, Stack, separated
from lm_research.layers.tap import Patch, tap

__all__ = [
    "ACTIVATIONS",
    "ALiBi",
    "Attention",
    "Bias",
    "Block",
    "Dropout",
    "DynamicNTK",
    "EMPTY",
    "Einsum",
    "Experts",
    "GatedMLP",
    "Head",
    "HiddenMemory",
    "KeyValue",
    "LayerNorm",
    "Learned",
    "LinearScaling",
    "Llama3Scaling",
    "LongRoPE",
    "MLP",
    "Mask",
    "Output",
    "Patch",
    "RMSNorm",
    "Recurrent",
    "RecurrentBlock",
    "RelativeAttention",
    "RelativeBias",
    "Repeated",
    "Rotary",
    "Sinusoidal",
    "Stack",
    "StateSpace",
    "Transform",
    "YaRN",
    "stream_dtype",
    "attend",
    "head_norm",
    "parameter",
    "product",
    "separated",
    "shard",
    "tap",
]
