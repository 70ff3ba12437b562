"""Each encoder-decoder against `transformers`, and what holds for all: a line in CASES each."""

import functools

import jax
import numpy as np
import pytest
from variants import tried

from lm_research import config, mesh, tree
from lm_research.errors import UserError
from lm_research.hub import load, names, save
from lm_research.infer import generate, score, separate
from lm_research.layers import EMPTY, Mask, Patch
from lm_research.models import BART, T5, OriginalTransformer
from lm_research.objectives.token_loss import token_loss

torch = pytest.importorskip("torch", reason="the reference is torch's: install the extra `verify`")
transformers = pytest.importorskip("transformers", reason="it is the reference: extra `verify`")

V, T, S = 61, 14, 19
T5_SMALL = {
    "vocab_size": V,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
    "decoder_start_token_id": 0,
}
UNUSUAL_T5 = {"d_kv": 12, "num_decoder_layers": 3, "layer_norm_epsilon": 1e-2}
V1_1 = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
BART_SMALL = {
    "vocab_size": V,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 24,
    "pad_token_id": V - 1,  # whose embedding gets no gradient in torch, so it is not among tokens
    "decoder_start_token_id": 2,
}
UNUSUAL_BART = {
    "activation_function": "relu",
    "scale_embedding": True,
    "decoder_layers": 3,
    "forced_bos_token_id": 5,
}
MARIAN = {"activation_function": "swish", "scale_embedding": True}
CASES = {
    "bart": ("BartConfig", BART_SMALL),
    "bart_unusual": ("BartConfig", BART_SMALL | UNUSUAL_BART),
    "mbart": ("MBartConfig", BART_SMALL | {"scale_embedding": True}),
    "marian": ("MarianConfig", BART_SMALL | MARIAN),
    "t5": ("T5Config", T5_SMALL),
    "t5_unusual": ("T5Config", T5_SMALL | UNUSUAL_T5 | {"feed_forward_proj": "gelu"}),
    "t5_v1_1": ("T5Config", T5_SMALL | V1_1),
    "t5_v1_1_exact": ("T5Config", T5_SMALL | V1_1 | {"dense_act_fn": "gelu"}),
    "t5_v1_1_unusual": ("T5Config", T5_SMALL | UNUSUAL_T5 | {"feed_forward_proj": "gated-silu"}),
    "mt5": ("MT5Config", T5_SMALL | V1_1 | {"decoder_start_token_id": 3}),
}
FIRST = list({kind: case for case, (kind, _) in reversed(CASES.items())}.values())
# One variant of each architecture.
TRIED = tried(CASES, FIRST)
UNTIED = ("t5_v1_1", "mt5")
SOURCES, TEXTS = (19, 11, 1), (14, 5, 1)  # tokens in the rows of a padded batch
TOLERANCE = 2e-5  # of the largest


class Reference:
    """A `transformers` model with large random weights, and what we load of it."""

    def __init__(self, case, directory):
        kind, values = CASES[case]
        torch.manual_seed(0)
        settings = getattr(transformers, kind)(**values)
        self.model = transformers.AutoModelForSeq2SeqLM.from_config(
            settings, attn_implementation="eager"
        ).eval()
        if case in UNTIED:  # theirs begin tied whatever the config says
            self.model.lm_head.weight = torch.nn.Parameter(torch.empty(V, settings.d_model))
        with torch.no_grad():
            for name, weight in self.trained():
                # Where scores are not scaled, larger weights make rounding of what they tell apart.
                weight.normal_(0, 0.18 if "T5" in kind else 0.25)
                if name.endswith(("norm.weight", "layernorm_embedding.weight")):
                    weight.add_(1)
            for name, buffer in self.model.named_buffers():
                if name == "final_logits_bias":
                    buffer.normal_(0, 0.25)
        self.model.save_pretrained(directory)
        self.directory = directory
        self.section = load.section(directory)
        self.ours = config.build(self.section, save.CONTENTS, "model")
        with mesh.single():
            self.params = load.load(directory, self.ours)

    def trained(self):
        """All parameters but sinusoids."""
        return [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]


@pytest.fixture(scope="module", params=TRIED)
def reference(request, tmp_path_factory):
    return Reference(request.param, tmp_path_factory.mktemp(request.param) / "theirs")


def padded(side, length, counts, seed):
    """Tokens, and 1 where they are no padding."""
    tokens = np.random.default_rng(seed).integers(0, V - 1, (len(counts), length))
    slots, counts = np.arange(length), np.array(counts)[:, None]
    return tokens, (slots < counts if side == "right" else slots >= length - counts).astype(int)


def drawn(length, seed, rows=2):
    return np.random.default_rng(seed).integers(0, V - 1, (rows, length))


@functools.partial(jax.jit, static_argnums=0)
def call(model, params, tokens, source, **given):
    return model.apply({"params": params}, tokens, source=source, **given).logits


def segments(present):
    return Mask(segments=(present, present))


@functools.partial(jax.jit, static_argnums=0)
def measured(model, params, tokens, given, targets, weights):
    """The loss, logits and gradients: one program for all sides."""

    def total(params):
        output = model.apply({"params": params}, tokens, **given)
        return token_loss(output, targets, weights)["loss"].total, output.logits

    return jax.value_and_grad(total, has_aux=True)(params)


@pytest.mark.parametrize("sides", ["right right", "left right"])
def test_logits_loss_and_every_gradient(reference, near, sides):
    source, sourced = padded(sides.split()[0], S, SOURCES, 1)
    tokens, present = padded(sides.split()[1], T, TEXTS, 2)
    targets = drawn(T, 3, len(tokens))
    theirs = reference.model(
        input_ids=torch.tensor(source),
        attention_mask=torch.tensor(sourced),
        decoder_input_ids=torch.tensor(tokens),
        decoder_attention_mask=torch.tensor(present),
    ).logits
    each = torch.nn.functional.cross_entropy(
        theirs.transpose(1, 2), torch.tensor(targets), reduction="none"
    )
    loss = (each * torch.tensor(present)).sum()
    reference.model.zero_grad()
    loss.backward()

    given = {"source": source, "source_mask": segments(sourced), "mask": segments(present)}
    (value, ours), gradients = measured(
        reference.ours, reference.params, tokens, given, targets, present.astype(np.float32)
    )
    near(np.asarray(ours)[present == 1], theirs[torch.tensor(present == 1)], TOLERANCE)
    near(value, loss, TOLERANCE)
    leaves = tree.named_leaves(gradients)
    parameters = names.parameters(names.abstract(reference.ours))
    layout = names.layout(names.fitting(reference.section, parameters), parameters)
    expected = {name: p.grad for name, p in reference.trained()}
    assert layout.keys() - {"final_logits_bias"} == expected.keys()
    for name in expected:
        tensor = layout[name]
        made = tensor.made(lambda path, index: np.asarray(leaves[path][index]))
        if not name.endswith("k_proj.bias"):  # nothing but rounding
            near(made, expected[name], 1e-4)


def test_weights_make_the_round_trip(reference, round_trip):
    round_trip(reference)


@pytest.mark.parametrize("reference", FIRST, indirect=True)
def test_transformers_loads_what_we_save(reference, large, near, read_by_transformers):
    params = large(reference.ours, seed=3, size=0.25)
    kind = transformers.AutoModelForSeq2SeqLM
    theirs = read_by_transformers(kind, reference, params)
    source, tokens = drawn(S, 4), drawn(T, 5)
    expected = theirs(input_ids=torch.tensor(source), decoder_input_ids=torch.tensor(tokens))
    near(call(reference.ours, params, tokens, source), expected.logits, TOLERANCE)


@pytest.mark.parametrize("reference", FIRST, indirect=True)
def test_greedy_continuations_are_theirs(reference):
    """Through the cache, sources of uneven length in one batch."""
    prompts = [np.arange(3, 20), np.array([7]), np.array([5, 59, 0, 2])]
    with mesh.single():
        found = generate(reference.ours, reference.params, prompts, length=12)
    for prompt, result in zip(prompts, found, strict=True):
        want = reference.model.generate(
            torch.tensor(prompt)[None],
            attention_mask=torch.ones(1, len(prompt), dtype=int),
            decoder_start_token_id=reference.ours.start,
            do_sample=False,
            max_new_tokens=12,
            eos_token_id=None,
            pad_token_id=0,
            forced_bos_token_id=reference.ours.first,
            forced_eos_token_id=None,
            use_cache=False,  # theirs has as many layers as the encoder, which may have fewer
        )
        assert result.tokens.tolist() == want[0, 1:].tolist()


def original():
    """Ours, torch's without the norms that it adds after the last layers, and shared weights."""
    ours = OriginalTransformer(V, 32, 2, 4, 48, attention_bias=True, start=3, dropout=0.0)
    layer = dict(nhead=4, dim_feedforward=48, dropout=0.0, layer_norm_eps=1e-6, batch_first=True)
    theirs = torch.nn.Transformer(
        d_model=32,
        nhead=4,
        custom_encoder=torch.nn.TransformerEncoder(
            torch.nn.TransformerEncoderLayer(32, **layer), 2, enable_nested_tensor=False
        ),
        custom_decoder=torch.nn.TransformerDecoder(
            torch.nn.TransformerDecoderLayer(32, **layer), 2
        ),
        batch_first=True,
    )
    return ours, theirs, torch.nn.Embedding(V, 32)


def assembled(theirs, table, source, tokens, padding=None):
    """Section 3: scaled embeddings and sinusoids in, the embedding as the last product."""

    def embedded(ids):
        rate = 10_000 ** (-torch.arange(0, 32, 2, dtype=torch.float64) / 32)
        angle = torch.arange(ids.shape[1])[:, None] * rate
        waves = torch.stack([angle.sin(), angle.cos()], -1).reshape(ids.shape[1], 32).float()
        return table(torch.tensor(ids)) * 32**0.5 + waves

    later = torch.triu(torch.ones(tokens.shape[1], tokens.shape[1], dtype=bool), 1)
    hidden = theirs(
        embedded(source),
        embedded(tokens),
        tgt_mask=later,
        src_key_padding_mask=padding,
        memory_key_padding_mask=padding,
    )
    return hidden @ table.weight.T


def weights(theirs, table):
    """By our paths, torch's parameters, and how ours become theirs."""
    attentions = {"attention": "self_attn", "cross": "multihead_attn"}
    norms = {"attention_norm": 0, "cross_norm": 1}
    for name, stack in (("encoder", theirs.encoder), ("decoder", theirs.decoder)):
        for i, layer in enumerate(stack.layers):
            for ours, tensor in attentions.items():
                if not hasattr(layer, tensor):
                    continue
                path, module = f"{name}/stack/blocks/{ours}", getattr(layer, tensor)
                for k, part in enumerate(("query", "key", "value")):
                    rows = slice(32 * k, 32 * k + 32)
                    yield f"{path}/{part}/kernel", i, module.in_proj_weight, rows
                    yield f"{path}/{part}/bias", i, module.in_proj_bias, rows
                yield f"{path}/out/kernel", i, module.out_proj.weight, slice(None)
                yield f"{path}/out/bias", i, module.out_proj.bias, slice(None)
            last = 2 if name == "decoder" else 1
            for ours, number in {**norms, "mlp_norm": last}.items():
                if ours == "cross_norm" and name == "encoder":
                    continue
                norm = getattr(layer, f"norm{number + 1}")
                yield f"{name}/stack/blocks/{ours}/scale", i, norm.weight, slice(None)
                yield f"{name}/stack/blocks/{ours}/bias", i, norm.bias, slice(None)
            for ours, linear in (("up", layer.linear1), ("down", layer.linear2)):
                yield f"{name}/stack/blocks/mlp/{ours}/kernel", i, linear.weight, slice(None)
                yield f"{name}/stack/blocks/mlp/{ours}/bias", i, linear.bias, slice(None)
    yield "embedding/table", None, table.weight, slice(None)


def like_torch(path, leaf):
    """One layer's parameter as torch has it: products are transposed, heads are joined."""
    leaf = np.asarray(leaf)
    if path.endswith("out/kernel"):
        return leaf.reshape(-1, leaf.shape[-1]).T
    if path.endswith("kernel"):
        return leaf.reshape(leaf.shape[0], -1).T
    return leaf if path == "embedding/table" else leaf.reshape(-1)


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_original_is_torch_s(large, near, side):
    """Logits, loss and every gradient; and greedy decoding through the cache."""
    ours, theirs, table = original()
    params = large(ours, size=0.3)
    leaves = tree.named_leaves(params)
    with torch.no_grad():
        for path, layer, tensor, rows in weights(theirs, table):
            leaf = leaves[path] if layer is None else leaves[path][layer]
            tensor[rows] = torch.tensor(like_torch(path, leaf))
    source, sourced = padded(side, S, SOURCES, 1)
    tokens, targets = drawn(T, 2, 3), drawn(T, 3, 3)
    expected = assembled(theirs, table, source, tokens, torch.tensor(sourced == 0))
    loss = torch.nn.functional.cross_entropy(expected.transpose(1, 2), torch.tensor(targets))
    loss.backward()

    def total(params):
        output = ours.apply(
            {"params": params}, tokens, source=source, source_mask=segments(sourced)
        )
        found = token_loss(output, targets, np.ones(targets.shape, np.float32))
        return found["loss"].value(), output.logits

    (value, logits), gradients = jax.jit(jax.value_and_grad(total, has_aux=True))(params)
    near(logits, expected, TOLERANCE)
    near(value, loss, TOLERANCE)
    found, seen = tree.named_leaves(gradients), set()
    for path, layer, tensor, rows in weights(theirs, table):
        leaf = found[path] if layer is None else found[path][layer]
        gradient, seen = tensor.grad, seen | {path}
        if not path.endswith("key/bias"):  # nothing but rounding
            near(like_torch(path, leaf), gradient[rows], 1e-4)
    assert seen == found.keys()
    with mesh.single():
        for prompt, result in zip(
            prompts := [source[0], np.array([7, 9])], generate(ours, params, prompts, length=8)
        ):
            text = [3]
            for _ in range(8):
                logits = assembled(theirs, table, prompt[None], np.array([text]))
                text.append(int(logits[0, -1].argmax()))
            assert result.tokens.tolist() == text[1:]


SIZES = {"vocab": 64, "width": 32, "layers": 2, "heads": 4, "hidden": 48}
T5_SIZES = {**SIZES, "head": 8, "buckets": 8, "distance": 12}
MODELS = {
    "bart": BART(**SIZES, context=24),
    "mbart": BART(**SIZES, context=24, norm_first=True, head_bias=True),
    "marian": BART(**SIZES, sinusoidal=True, embedding_norm=False, embedding_scale=True),
    "original": OriginalTransformer(**SIZES, attention_bias=True, start=2, dropout=0.0),
    "t5": T5(**T5_SIZES, start=2),
    "t5_first": T5(**T5_SIZES, activation="relu", gated=False, tied=True, decoder_layers=3),
}
# Those whose stacks are unlike; what the core does with a stack is tried on them, or on all.
STACKS = tried(MODELS, ("t5_first",))
WEIGHTS = np.random.default_rng(7).normal(size=(2, T, 64)).astype(np.float32)


@pytest.fixture(scope="module", params=tried(MODELS, ("bart", "t5_first")))
def model(request):
    return MODELS[request.param]


@pytest.fixture(scope="module")
def params(model, large):
    # Where scores are not scaled, larger weights make rounding of what they tell apart.
    return large(
        model, size=0.25 if model.decoder.stack.period[0].attention.scale is None else 0.18
    )


@pytest.fixture(scope="module")
def expected(model, params):
    return both(model)(params)


def both(model):
    """Of parameters: gradients and logits, jitted."""

    def total(params):
        found = model.apply({"params": params}, drawn(T, 5), source=drawn(S, 4)).logits
        return (found * WEIGHTS).sum(), found

    return jax.jit(jax.grad(total, has_aux=True))


def test_logits_depend_on_earlier_tokens_and_on_all_of_the_source(model, params):
    def logit(added, read):
        patches = {
            "decoder": {"embedded": Patch(np.ones((1, T, 32), np.float32), added)},
            "encoder": {"embedded": Patch(np.ones((1, S, 32), np.float32), read)},
        }
        output = model.apply(
            {"params": params, "patches": patches}, drawn(T, 5, 1), source=drawn(S, 4, 1)
        )
        return (output.logits[0] * WEIGHTS[0]).sum(-1)  # [T]

    zeros = np.zeros((1, T, 32), np.float32), np.zeros((1, S, 32), np.float32)
    own, source = jax.jit(jax.jacrev(logit, (0, 1)))(*zeros)
    own, source = (np.abs(x[:, 0]).max(-1) for x in (own, source))
    later = np.triu(np.ones((T, T), bool), 1)
    assert (own[later] == 0).all() and (own[~later] > 0).all()
    assert (source > 0).all()


def test_cached_is_full(model, params, alike):
    """Sources of uneven length; texts of uneven length read in one call, then token by token."""
    given, lengths, read = drawn(T, 5), np.array([5, 3]), 5
    source, sourced = padded("right", S, (S, 6), 4)
    full = call(model, params, given, source, source_mask=segments(sourced))

    @jax.jit
    def step(params, cache, tokens, position, source=None):
        mask = None if source is None else segments(sourced)
        output = model.apply(
            {"params": params},
            tokens,
            source=source,
            source_mask=mask,
            position=position,
            cache=cache,
        )
        return output.logits, output.cache

    slots = np.broadcast_to(np.arange(read), (2, read))
    position = np.where(slots < lengths[:, None], slots, EMPTY)
    found, cache = step(params, model.init_cache(2, T), given[:, :read], position, source)
    for row, length in enumerate(lengths):
        alike(found[row, :length], full[row, :length])
    for i in range(T - read):
        at = lengths + i
        now = np.take_along_axis(given, at[:, None], 1)
        found, cache = step(params, cache, now, at[:, None])
        alike(found[:, 0], np.take_along_axis(np.asarray(full), at[:, None, None], 1)[:, 0])


def test_packed_is_separate(model, params, alike):
    """Two pairs in a row: each text sees its own source."""
    tokens, source, cut, sourced = drawn(T, 5), drawn(S, 4), 5, 8

    def packing(length, cut):
        ids = np.where(np.arange(length) < cut, 1, 2) + np.zeros((2, 1), int)
        return np.where(ids == 1, np.arange(length), np.arange(length) - cut), segments(ids)

    position, mask = packing(T, cut)
    source_position, source_mask = packing(S, sourced)
    packed = call(
        model,
        params,
        tokens,
        source,
        position=position,
        mask=mask,
        source_position=source_position,
        source_mask=source_mask,
    )
    alike(packed[:, :cut], call(model, params, tokens[:, :cut], source[:, :sourced]))
    alike(packed[:, cut:], call(model, params, tokens[:, cut:], source[:, sourced:]))


@pytest.mark.parametrize(
    "model, remat", [("t5_first", "none"), *((name, "full") for name in STACKS)], indirect=["model"]
)
def test_scanned_is_unrolled(model, params, expected, alike, remat):
    other = {
        name: stack.clone(stack=stack.stack.clone(execution="scan", remat=remat))
        for name, stack in (("encoder", model.encoder), ("decoder", model.decoder))
    }
    alike(both(model.clone(**other))(params), expected)


@pytest.mark.parametrize("model", STACKS, indirect=True)
def test_separate_is_stacked(model, params, expected, alike):
    apart, weights = separate(model, params)
    gradients, logits = expected
    alike(both(apart)(weights), (separate(model, gradients)[1], logits))


@pytest.mark.parametrize("model", STACKS, indirect=True)
def test_sharded_is_whole(model, params, expected, alike):
    boxed = names.abstract(model)
    with mesh.Mesh(data=2, fsdp=2, tensor=2).activate():
        sharded = jax.device_put(params, mesh.shardings(boxed))
        key = sharded["decoder"]["stack"]["blocks"]["cross"]["key"]["kernel"]
        assert key.addressable_shards[0].data.shape[1:3] == (key.shape[1] / 2, key.shape[2] / 2)
        alike(both(model)(sharded), expected, 3e-5)
    stages = 1 if model.decoder.stack.layers % 2 else 2
    with mesh.Mesh(data=4 // stages, sequence=2, pipeline=stages).activate():
        sharded = jax.device_put(params, mesh.shardings(boxed))
        alike(both(model)(sharded), expected, 3e-5)


def test_scores_obey_the_chain_rule(model, params):
    """Also the first token is predicted; sources and texts of uneven length."""
    sources = [np.arange(3, 20), np.array([7])]
    texts = [np.array([5, 60, 0]), np.arange(11)]
    found = score(model, params, texts, sources)
    for source, text, scores in zip(sources, texts, found, strict=True):
        tokens = np.concatenate([[model.start], text])[None, :-1]
        logits = call(model, params, tokens, source[None])[0]
        want = jax.nn.log_softmax(logits)[np.arange(len(text)), text]
        np.testing.assert_allclose(scores["logprobs"], want, atol=2e-4)
        np.testing.assert_allclose(scores["sum"], want.sum(), atol=1e-3)
        assert scores["tokens"] == text.tolist()
    with pytest.raises(UserError, match="1 sources for 2 sequences; give each one"):
        score(model, params, texts, sources[:1])


def test_a_source_is_needed(model, params):
    with pytest.raises(ValueError, match="give `source`"):
        model.apply({"params": params}, drawn(T, 5))
