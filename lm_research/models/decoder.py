"""What Llama and its kin call tensors and options in Hugging Face's files: families share these."""

from lm_research.models.family import Row

LAYER = "model.layers.{L}."

# Before and after the blocks.
ENDS = (
    Row("embedding/table", "model.embed_tokens.weight", "VD"),
    Row("norm/scale", "model.norm.weight", "D"),
    Row("head/table", "lm_head.weight", "VD", tied="embedding/table"),
)
ATTENTION = (
    Row("stack/blocks/attention/query/kernel", f"{LAYER}self_attn.q_proj.weight", "(NH)D"),
    Row("stack/blocks/attention/key/kernel", f"{LAYER}self_attn.k_proj.weight", "(KH)D"),
    Row("stack/blocks/attention/value/kernel", f"{LAYER}self_attn.v_proj.weight", "(KH)D"),
    Row("stack/blocks/attention/out/kernel", f"{LAYER}self_attn.o_proj.weight", "D(NH)"),
)
MLP = (
    Row("stack/blocks/mlp/gate/kernel", f"{LAYER}mlp.gate_proj.weight", "FD"),
    Row("stack/blocks/mlp/up/kernel", f"{LAYER}mlp.up_proj.weight", "FD"),
    Row("stack/blocks/mlp/down/kernel", f"{LAYER}mlp.down_proj.weight", "DF"),
)
ATTENTION_BIASES = (
    Row("stack/blocks/attention/query/bias", f"{LAYER}self_attn.q_proj.bias", "(NH)"),
    Row("stack/blocks/attention/key/bias", f"{LAYER}self_attn.k_proj.bias", "(KH)"),
    Row("stack/blocks/attention/value/bias", f"{LAYER}self_attn.v_proj.bias", "(KH)"),
    Row("stack/blocks/attention/out/bias", f"{LAYER}self_attn.o_proj.bias", "D"),
)
MLP_BIASES = (
    Row("stack/blocks/mlp/gate/bias", f"{LAYER}mlp.gate_proj.bias", "F"),
    Row("stack/blocks/mlp/up/bias", f"{LAYER}mlp.up_proj.bias", "F"),
    Row("stack/blocks/mlp/down/bias", f"{LAYER}mlp.down_proj.bias", "D"),
)
# Before attention and before the MLP, the latter named for what it follows.
ATTENTION_NORM = Row("stack/blocks/attention_norm/scale", f"{LAYER}input_layernorm.weight", "D")
MLP_NORM = Row("stack/blocks/mlp_norm/scale", f"{LAYER}post_attention_layernorm.weight", "D")
# Of queries and keys, head by head.
HEAD_NORMS = (
    Row("stack/blocks/attention/query_norm/scale", f"{LAYER}self_attn.q_norm.weight", "H"),
    Row("stack/blocks/attention/key_norm/scale", f"{LAYER}self_attn.k_norm.weight", "H"),
)
# What configs call our options.
NAMES = {
    "vocab": "vocab_size",
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "hidden": "intermediate_size",
    "activation": "hidden_act",
    "tied": "tie_word_embeddings",
    "epsilon": "rms_norm_eps",
}
# The initial weights; and the rotary base, for transformers 4.
RECORDED = {"initializer_range": "deviation", "rope_theta": "base"}
BUFFERS = (r"layers\.\d+\.self_attn\.rotary_emb\.inv_freq",)  # in older files
