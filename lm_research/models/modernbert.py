"""ModernBERT (Warner et al., 2024): rotary positions, gated MLPs, and layers mostly local."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from lm_research.errors import UserError
from lm_research.layers import Attention, Block, GatedMLP, LayerNorm, Rotary, Stack
from lm_research.layers.attention import head_size
from lm_research.layers.einsum import normal_products
from lm_research.layers.kernels import Kernel
from lm_research.layers.mlp import Activation
from lm_research.layers.stack import Execution, Remat
from lm_research.models.family import Family, Row
from lm_research.models.heads import HeadTransform
from lm_research.models.transformer import Transformer

SIZES = {  # width, layers, heads, hidden
    "base": (768, 22, 12, 1152),
    "large": (1024, 28, 16, 2624),
}
FULL, LOCAL = "full_attention", "sliding_attention"


def ModernBERT(
    vocab: int,
    width: int = 768,
    layers: int = 22,
    heads: int = 12,
    hidden: int = 1152,
    every: int = 3,
    window: int = 64,
    base: float = 160_000.0,
    local_base: float = 10_000.0,
    activation: Activation = "gelu",
    head: bool = True,
    head_activation: Activation = "gelu",
    epsilon: float = 1e-5,
    dropout: float = 0.0,
    attention_dropout: float = 0.0,
    deviation: float = 0.02,
    dtype: Literal["float32", "bfloat16"] = "float32",
    execution: Execution = "auto",
    remat: Remat = "none",
    kernel: Kernel = "auto",
) -> Transformer:
    """A ModernBERT.

    Args:
      vocab: V.
      width, layers, heads, hidden: D, L, N and F; the head size is D / N.
      every: the first of so many layers sees all tokens, the others are local.
      window: how far a local layer sees to each side.
      base, local_base: of the rotary positions of either kind.
      activation: of the gates of the MLPs; `head_activation`: of the vocabulary head's transform.
      head: whether there is a vocabulary head.
      epsilon: of the norms.
      dropout: rate on embeddings and on what blocks add to the stream.
      attention_dropout: rate on the weights that attention gives to keys.
      deviation: of the initial weights; products that write to the stream start smaller by sqrt(2
        L).
      dtype: of the products' operands.

    Raises:
      ValueError: the width is not a multiple of the heads.
    """
    shared = normal_products(deviation, dtype, 2 * layers)
    norm = lambda: LayerNorm(epsilon, bias=False)  # Linen shares what is one module

    def block(full: bool, bare: bool = False) -> Block:
        attention = Attention(
            heads,
            heads,
            head_size(width, heads),
            rotary=Rotary(base if full else local_base),
            window=None if full else window + 1,  # itself included
            dropout=attention_dropout,
            kernel=kernel,
            **shared,
        )
        mlp = GatedMLP(hidden, activation, **shared)
        return Block(attention, mlp, norm(), dropout=dropout, bare=bare)

    # The first layer reads what the embedding's norm has just normalised.
    period = tuple(block(full=i % every == 0) for i in range(1, every + 1))
    transform = HeadTransform(
        head_activation, epsilon, False, False, shared["out_initializer"], dtype
    )
    return Transformer(
        vocab,
        width,
        Stack(layers, period, execution, remat, block(full=True, bare=True)),
        norm(),
        causal=False,
        dropout=dropout,
        deviation=deviation,
        dtype=dtype,
        embedding_norm=norm(),
        predicts=head,
        transform=transform if head else None,
        head_bias=head,
    )


def _section(config: Mapping[str, Any]) -> dict[str, Any]:
    window = config["local_attention"] // 2
    return {"every": _every(config), "window": window, **_bases(config)}


def _every(config: Mapping[str, Any]) -> int:
    """Of how many layers the first sees all tokens: `layer_types` says it since transformers 5."""
    kinds = config["layer_types"]
    if kinds is None:
        return config["global_attn_every_n_layers"]
    for every in range(1, len(kinds) + 1):
        if list(kinds) == [LOCAL if i % every else FULL for i in range(len(kinds))]:
            return every
    raise UserError(
        f"config.json has layer_types {kinds}; it takes {FULL} first and at equal distances, and "
        f"{LOCAL} between"
    )


def _bases(config: Mapping[str, Any]) -> dict[str, float]:
    """Of the rotary positions: `rope_parameters` has them since transformers 5."""
    found = {}
    for name, kind, old in (("base", FULL, "global"), ("local_base", LOCAL, "local")):
        rope = {"rope_type": "default", **((config["rope_parameters"] or {}).get(kind) or {})}
        theta = rope.pop("rope_theta", config[f"{old}_rope_theta"])
        if rope != {"rope_type": "default"}:
            raise UserError(f"config.json scales the rotary positions of {kind} by {rope}")
        found[name] = float(theta)
    return found


def _config(section: Mapping[str, Any]) -> dict[str, Any]:
    every, bases = section["every"], {FULL: section["base"], LOCAL: section["local_base"]}
    return {
        "local_attention": 2 * section["window"],
        "layer_types": [LOCAL if i % every else FULL for i in range(section["layers"])],
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": base} for kind, base in bases.items()
        },
    }


NAMES = {
    "vocab": "vocab_size",
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "hidden": "intermediate_size",
    "activation": "hidden_activation",
    "head_activation": "classifier_activation",
    "epsilon": "norm_eps",
}
RECORDED = {
    "global_attn_every_n_layers": "every",  # for transformers 4, as the next two
    "global_rope_theta": "base",
    "local_rope_theta": "local_base",
    "embedding_dropout": "dropout",
    "mlp_dropout": "dropout",
    "attention_dropout": "attention_dropout",
    "initializer_range": "deviation",
}
TRUNK = (
    Row("embedding/table", "model.embeddings.tok_embeddings.weight", "VD"),
    Row("embedding_norm/scale", "model.embeddings.norm.weight", "D"),
    Row("stack/blocks/attention_norm/scale", "model.layers.{L}.attn_norm.weight", "D"),
    Row("stack/blocks/attention/query/kernel", "model.layers.{L}.attn.Wqkv.weight", "+(NH)D"),
    Row("stack/blocks/attention/key/kernel", "model.layers.{L}.attn.Wqkv.weight", "+(KH)D"),
    Row("stack/blocks/attention/value/kernel", "model.layers.{L}.attn.Wqkv.weight", "+(KH)D"),
    Row("stack/blocks/attention/out/kernel", "model.layers.{L}.attn.Wo.weight", "D(NH)"),
    Row("stack/blocks/mlp_norm/scale", "model.layers.{L}.mlp_norm.weight", "D"),
    Row("stack/blocks/mlp/gate/kernel", "model.layers.{L}.mlp.Wi.weight", "+FD"),
    Row("stack/blocks/mlp/up/kernel", "model.layers.{L}.mlp.Wi.weight", "+FD"),
    Row("stack/blocks/mlp/down/kernel", "model.layers.{L}.mlp.Wo.weight", "DF"),
    Row("norm/scale", "model.final_norm.weight", "D"),
)
HEAD = (
    Row("transform/kernel", "head.dense.weight", "CD"),
    Row("transform/norm_scale", "head.norm.weight", "C"),
    Row("head_bias", "decoder.bias", "V"),
    Row("head/table", "decoder.weight", "VD", tied="embedding/table"),
)

MASKED = Family(
    kind="ModernBERT",
    model_type="modernbert",
    architecture="ModernBertForMaskedLM",
    rows=(*TRUNK, *HEAD),
    names=NAMES,
    recorded=RECORDED,
    section=_section,
    config=_config,
    defaults={
        "vocab_size": 50368,
        "hidden_size": 768,
        "num_hidden_layers": 22,
        "num_attention_heads": 12,
        "intermediate_size": 1152,
        "local_attention": 128,
        "layer_types": None,
        "global_attn_every_n_layers": 3,
        "rope_parameters": None,
        "global_rope_theta": 160_000.0,
        "local_rope_theta": 10_000.0,
        "max_position_embeddings": 8192,
        "hidden_activation": "gelu",
        "classifier_activation": "gelu",
        "norm_eps": 1e-5,
    },
    fixed={
        "attention_bias": False,
        "mlp_bias": False,
        "norm_bias": False,
        "classifier_bias": False,
        "decoder_bias": True,
        "tie_word_embeddings": True,
        "rope_scaling": None,
    },
    # Initial weights, dropout, how its own code computes, and what other architectures' heads take.
    inert=(
        *("initializer_range", "initializer_cutoff_factor", "embedding_dropout", "mlp_dropout"),
        *("attention_dropout", "deterministic_flash_attn", "reference_compile"),
        *("repad_logits_with_grad", "sparse_prediction", "sparse_pred_ignore_index"),
        *("classifier_pooling", "classifier_dropout", "layer_norm_eps", "position_embedding_type"),
        *("cls_token_id", "sep_token_id", "gradient_checkpointing"),
    ),
    prefix="model.",
)
BARE = dataclasses.replace(
    MASKED,
    architecture="ModernBertModel",
    rows=TRUNK,
    options={"head": False},
)

FAMILIES = (MASKED, BARE)
