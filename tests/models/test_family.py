"""Each family against `transformers`, with random weights: a new one is a line in CASES."""

import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file
from variants import tried

from lm_research import config, mesh, tree
from lm_research.errors import UserError
from lm_research.hub import load, names, save
from lm_research.infer import generate
from lm_research.layers import Mask
from lm_research.models.family import ACTIVATIONS, our_activation, their_activation
from lm_research.objectives import Causal

torch = pytest.importorskip("torch", reason="the reference is torch's: install the extra `verify`")
transformers = pytest.importorskip("transformers", reason="it is the reference: extra `verify`")

GPT2 = {"vocab_size": 61, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 24}
LLAMA = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 24,
}
UNUSUAL_GPT2 = {
    "activation_function": "gelu",
    "n_inner": 40,
    "layer_norm_epsilon": 1e-2,
    "tie_word_embeddings": False,
}
TIED_LLAMA = {"tie_word_embeddings": True, "rope_theta": 100.0, "rms_norm_eps": 1e-2}
ROPE = {"rope_theta": 100.0, "original_max_position_embeddings": 8, "factor": 3.0}
LINEAR = {"rope_type": "linear", "rope_theta": 100.0, "factor": 3.0}
LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0, **ROPE}
YARN = {"rope_type": "yarn", "beta_fast": 4.0, "beta_slow": 0.5, **ROPE}
SCALED_YARN = {**YARN, "mscale": 1.5, "mscale_all_dim": 0.5, "truncate": False}
GEMMA = LLAMA | {
    "head_dim": 16,
    "num_key_value_heads": 2,
    "pad_token_id": None,
}  # whose row torch would not train
GEMMA2 = {"num_hidden_layers": 3, "sliding_window": 5, "query_pre_attn_scalar": 6}
CAPS = {"attn_logit_softcapping": 3.0, "final_logit_softcapping": 2.0}
LOCAL, GLOBAL = "sliding_attention", "full_attention"
GEMMA3 = {
    "num_hidden_layers": 5,
    "layer_types": [LOCAL, LOCAL, GLOBAL, LOCAL, LOCAL],
    "sliding_window": 4,
    "query_pre_attn_scalar": 20,
    "rope_parameters": {
        GLOBAL: {"rope_type": "linear", "rope_theta": 1000.0, "factor": 4.0},
        LOCAL: {"rope_type": "default", "rope_theta": 50.0},
    },
}
SPARSE = LLAMA | {"num_key_value_heads": 2, "num_experts_per_tok": 2}
MIXED = {"num_experts": 5, "moe_intermediate_size": 24, "head_dim": 16}
MAMBA2 = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_heads": 8,
    "head_dim": 8,
    "n_groups": 2,
    "state_size": 12,
    "chunk_size": 7,
}
UNUSUAL_MAMBA2 = {
    "expand": 3,
    "num_heads": 6,
    "head_dim": 16,
    "n_groups": 1,
    "conv_kernel": 3,
    "use_conv_bias": False,
    "hidden_act": "gelu",
    "layer_norm_epsilon": 1e-2,
    "tie_word_embeddings": True,
}
NEOX = {n: v for n, v in LLAMA.items() if n != "rms_norm_eps"}
OPT = {n: v for n, v in LLAMA.items() if n != "intermediate_size"} | {"ffn_dim": 40}
OPT |= {"pad_token_id": None}  # whose row torch would not train
CASES = {
    "gpt2": ("GPT2Config", GPT2),
    "gpt2_unusual": ("GPT2Config", GPT2 | UNUSUAL_GPT2),
    "gemma": ("GemmaConfig", GEMMA | {"num_key_value_heads": 1}),
    "gemma_relu": (
        "GemmaConfig",
        GEMMA | TIED_LLAMA | {"hidden_act": "relu", "tie_word_embeddings": False},
    ),
    "gemma2": ("Gemma2Config", GEMMA | GEMMA2 | CAPS | {"num_key_value_heads": 2}),
    "gemma2_plain": (
        "Gemma2Config",
        GEMMA
        | {
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "layer_types": [GLOBAL, GLOBAL],
            "rope_parameters": LINEAR,
        },
    ),
    "gemma3": ("Gemma3TextConfig", GEMMA | GEMMA3 | {"num_key_value_heads": 2}),
    "gemma3_capped": (
        "Gemma3TextConfig",
        GEMMA | {"final_logit_softcapping": 2.0, "sliding_window": 3},
    ),
    "gpt_neox": ("GPTNeoXConfig", NEOX | {"rotary_pct": 0.5, "rotary_emb_base": 100}),
    "gpt_neox_serial": (
        "GPTNeoXConfig",
        NEOX
        | {"use_parallel_residual": False, "tie_word_embeddings": True, "layer_norm_eps": 1e-2}
        | {"hidden_act": "gelu_new", "rope_scaling": {**LINEAR, "partial_rotary_factor": 1.0}},
    ),
    "llama": ("LlamaConfig", LLAMA | {"num_key_value_heads": 2, "hidden_act": "gelu"}),
    "llama_tied": ("LlamaConfig", LLAMA | TIED_LLAMA),
    "llama_biased": ("LlamaConfig", LLAMA | {"attention_bias": True, "mlp_bias": True}),
    "llama_linear": ("LlamaConfig", LLAMA | {"rope_parameters": LINEAR}),
    "llama_3": ("LlamaConfig", LLAMA | {"rope_parameters": LLAMA3}),
    "llama_yarn": ("LlamaConfig", LLAMA | {"rope_parameters": YARN}),
    "llama_yarn_scaled": ("LlamaConfig", LLAMA | {"rope_parameters": SCALED_YARN}),
    "mamba2": ("Mamba2Config", MAMBA2),
    "mamba2_biased": ("Mamba2Config", MAMBA2 | {"use_bias": True}),
    "mamba2_unusual": ("Mamba2Config", MAMBA2 | UNUSUAL_MAMBA2),
    "mistral": ("MistralConfig", LLAMA | {"num_key_value_heads": 2, "sliding_window": 5}),
    "mixtral": ("MixtralConfig", SPARSE | {"num_local_experts": 4, "sliding_window": 5}),
    "mixtral_tied": ("MixtralConfig", SPARSE | TIED_LLAMA | {"num_experts_per_tok": 1}),
    "qwen3_moe": ("Qwen3MoeConfig", SPARSE | MIXED | TIED_LLAMA | {"norm_topk_prob": True}),
    "qwen3_moe_mixed": (
        "Qwen3MoeConfig",
        SPARSE | MIXED | {"num_hidden_layers": 3, "decoder_sparse_step": 2, "mlp_only_layers": [0]},
    ),
    "olmo2": ("Olmo2Config", LLAMA | {"num_key_value_heads": 2, "pad_token_id": None}),
    "olmo2_tied": ("Olmo2Config", LLAMA | TIED_LLAMA | {"pad_token_id": None}),
    "opt": ("OPTConfig", OPT),
    "opt_untied": (
        "OPTConfig",
        OPT | {"activation_function": "gelu", "tie_word_embeddings": False},
    ),
    "opt_narrow": ("OPTConfig", OPT | {"word_embed_proj_dim": 24, "do_layer_norm_before": False}),
    "opt_narrow_untied": (
        "OPTConfig",
        OPT
        | {"word_embed_proj_dim": 24, "tie_word_embeddings": False}
        | {"_remove_final_layer_norm": True},
    ),
    "opt_bare": (
        "OPTConfig",
        OPT | {"enable_bias": False, "layer_norm_elementwise_affine": False},
    ),
    "phi3": ("Phi3Config", LLAMA | {"num_key_value_heads": 2, "pad_token_id": None}),
    "phi3_partial": (
        "Phi3Config",
        LLAMA
        | TIED_LLAMA
        | {"partial_rotary_factor": 0.5, "sliding_window": 5, "pad_token_id": None},
    ),
    "qwen2": ("Qwen2Config", LLAMA | {"num_key_value_heads": 2}),
    "qwen3": ("Qwen3Config", LLAMA | {"num_key_value_heads": 2, "head_dim": 16}),
}
FIRST = list({kind: case for case, (kind, _) in reversed(CASES.items())}.values())
# One variant of each architecture, and some more.
MORE = ["gpt2_unusual", "llama_3", "opt_narrow", "llama_biased"]
TRIED = tried(CASES, FIRST + MORE)
SOME = tried(FIRST, ["gemma2", "gpt2", "mamba2", "mixtral"])  # as unlike as they are
LENGTH = 24  # the whole context
ROWS = (24, 17, 1)  # tokens in each row of a padded batch
TOLERANCE = 2e-5  # of the largest; the two gelus part at 1e-4


class Reference:
    """A `transformers` model with large random weights, and what we load of it."""

    def __init__(self, case, directory):
        kind, values = CASES[case]
        torch.manual_seed(0)
        settings = getattr(transformers, kind)(**values)
        self.model = transformers.AutoModelForCausalLM.from_config(
            settings, attn_implementation="eager"
        ).eval()
        with torch.no_grad():
            for weight in self.model.parameters():
                around = float((weight == 1).all())  # a norm's scale, unless it starts from zero
                weight.normal_(0, 0.4).add_(around)
        self.model.save_pretrained(directory)
        self.directory = directory
        self.section = load.section(directory)
        self.ours = config.build(self.section, save.CONTENTS, "model")
        with mesh.single():
            self.params = load.load(directory, self.ours)

    def logits(self, tokens, present=None):
        """Theirs, with their own idea of padding."""
        present = np.ones_like(tokens) if present is None else present
        return self.model(
            torch.tensor(tokens),
            attention_mask=torch.tensor(present),
            position_ids=torch.tensor(positions(present)),
        ).logits


@pytest.fixture(scope="module", params=TRIED)
def reference(request, tmp_path_factory):
    return Reference(request.param, tmp_path_factory.mktemp(request.param) / "theirs")


def positions(present):
    return np.maximum(np.cumsum(present, 1) - 1, 0)


def padded(side):
    """Tokens, and 1 where they are no padding."""
    tokens = np.random.default_rng(1).integers(0, 61, (len(ROWS), LENGTH))
    slots = np.arange(LENGTH)
    rows = np.array(ROWS)[:, None]
    return tokens, (slots < rows if side == "right" else slots >= LENGTH - rows).astype(int)


def close(ours, theirs, tolerance=TOLERANCE):
    ours, theirs = np.asarray(ours), theirs.detach().numpy()
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()


@functools.partial(jax.jit, static_argnums=0)
def plain_logits(model, params, tokens):
    return model.apply({"params": params}, tokens).logits


@functools.partial(jax.jit, static_argnums=0)
def measured(model, params, tokens, given, batch):
    """Logits, and the loss with its gradients: one program for either side."""
    total = lambda params: Causal(LENGTH - 1).measure(model, params, batch)["loss"].total
    logits = model.apply({"params": params}, tokens, **given).logits
    return logits, jax.value_and_grad(total)(params)


@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_loss_and_every_gradient(reference, side, tmp_path):
    if side == "left" and reference.section["kind"] == "Mamba2" and reference.section["bias"]:
        pytest.skip("theirs convolves the biases of what pads a text on the left")
    tokens, present = padded(side)
    weights = present[:, 1:] * present[:, :-1]
    batch = {
        "tokens": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "weights": weights.astype(np.float32),
        "segments": present[:, :-1],
        "position": positions(present)[:, :-1],
    }
    reference.model.zero_grad()
    theirs = reference.logits(tokens, present)
    each = torch.nn.functional.cross_entropy(
        theirs[:, :-1].transpose(1, 2), torch.tensor(tokens[:, 1:]), reduction="none"
    )
    loss = (each * torch.tensor(weights)).sum()
    loss.backward()

    given = {"position": positions(present), "mask": Mask(segments=(present, present))}
    ours, (value, gradients) = measured(reference.ours, reference.params, tokens, given, batch)
    close(np.asarray(ours)[present == 1], theirs[torch.tensor(present == 1)])
    close(value, loss)
    leaves = tree.named_leaves(gradients)
    parameters = names.parameters(names.abstract(reference.ours))
    layout = names.layout(names.fitting(reference.section, parameters), parameters)
    expected = as_saved(reference.model, tmp_path)
    assert layout.keys() == expected.keys()
    # A key's bias has no gradient but rounding, which is a part of the others'.
    rounding = 1e-6 * max(float(gradient.abs().max()) for gradient in expected.values())
    for name, tensor in layout.items():
        made = tensor.made(lambda path, index: np.asarray(leaves[path][index]))
        assert made.shape == expected[name].shape, name
        apart = np.abs(made - expected[name].numpy()).max()
        assert apart <= 1e-4 * float(expected[name].abs().max()) + rounding, name


def as_saved(model, directory):
    """Gradients of a model as its tensors are in a file, where experts lie apart."""
    twin = copy.deepcopy(model)
    for weight, given in zip(twin.parameters(), model.parameters(), strict=True):
        weight.data = given.grad
    twin.save_pretrained(directory)
    found = load_file(directory / "model.safetensors")
    return {name: torch.tensor(array) for name, array in found.items()}


@pytest.mark.parametrize("reference", SOME, indirect=True)
def test_logits_without_positions_and_mask(reference):
    tokens = np.random.default_rng(2).integers(0, 61, (2, LENGTH))
    for given in (tokens, tokens[:, :1]):
        ours = plain_logits(reference.ours, reference.params, given)
        close(ours, reference.model(torch.tensor(given)).logits)


def test_weights_make_the_round_trip(reference, round_trip):
    round_trip(reference)


@pytest.mark.parametrize("reference", SOME, indirect=True)
def test_greedy_continuations_are_theirs(reference):
    """Through the cache, prompts of uneven length in one batch."""
    prompts = [np.arange(3, 14), np.array([7]), np.array([5, 60, 0, 2])]
    with mesh.single():
        found = generate(reference.ours, reference.params, prompts, length=12)
    for prompt, result in zip(prompts, found, strict=True):
        given = torch.tensor(prompt)[None]
        want = reference.model.generate(
            given,
            attention_mask=torch.ones_like(given),
            do_sample=False,
            max_new_tokens=12,
            eos_token_id=None,
            pad_token_id=0,
        )
        assert result.tokens.tolist() == want[0, len(prompt) :].tolist()


@pytest.mark.parametrize("reference", FIRST, indirect=True)
def test_transformers_loads_what_we_save(reference, large, read_by_transformers):
    params = large(reference.ours, seed=3)
    kind = transformers.AutoModelForCausalLM
    theirs = read_by_transformers(kind, reference, params)
    tokens = np.random.default_rng(3).integers(0, 61, (2, LENGTH))
    close(plain_logits(reference.ours, params, tokens), theirs(torch.tensor(tokens)).logits)


@pytest.mark.parametrize("theirs", ACTIVATIONS)
def test_activations_are_theirs(theirs):
    from lm_research.layers import ACTIVATIONS as functions

    x = np.linspace(-6, 6, 101, dtype=np.float32)
    expected = transformers.activations.ACT2FN[theirs](torch.tensor(x)).numpy()
    ours = our_activation(theirs)
    np.testing.assert_allclose(functions[ours](jnp.asarray(x)), expected, atol=2e-6)
    assert ACTIVATIONS[their_activation(ours)] == ours


def test_an_unknown_activation_is_refused():
    with pytest.raises(UserError, match=r"'xielu'.*gelu_new"):
        our_activation("xielu")
