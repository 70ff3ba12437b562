"""Attention: masks, grouped heads, kernels and caches against plain numpy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from variants import tried

from lm_research import mesh
from lm_research.layers import EMPTY, Attention, Bias, Mask, Rotary, attend, kernels

B, T, N, K, H = 2, 8, 4, 2, 16


def inputs(length=T, seed=0):
    keys = jax.random.split(jax.random.key(seed), 3)
    shapes = [(B, length, N, H), (B, length, K, H), (B, length, K, H)]
    return [3 * jax.random.normal(key, shape) for key, shape in zip(keys, shapes)]


def reference(query, key, value, allowed, bias=0.0, soft_cap=None):
    """softmax(q k / sqrt(H)) v, head by head; allowed [B, T, S], bias [N, T, S]."""
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    result = np.zeros(query.shape)
    for b in range(query.shape[0]):
        for n in range(N):
            k = n // (N // K)
            scores = query[b, :, n] @ key[b, :, k].T / np.sqrt(H)
            scores = scores + (bias[n] if np.ndim(bias) else bias)
            if soft_cap:
                scores = soft_cap * np.tanh(scores / soft_cap)
            scores = np.where(allowed[b], scores, -np.inf)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            result[b, :, n] = weights / weights.sum(-1, keepdims=True) @ value[b, :, k]
    return result


CAUSAL = np.tril(np.ones((T, T), bool))
SEGMENTS = np.array([[1, 1, 1, 2, 2, 2, 2, 0], [1, 2, 2, 2, 3, 3, 3, 3]])
SAME = SEGMENTS[:, :, None] == SEGMENTS[:, None, :]
ANY = np.random.default_rng(0).random((B, T, T)) < 0.5
ANY |= np.eye(T, dtype=bool)


@pytest.mark.parametrize(
    "mask, allowed",
    [
        (Mask(), np.ones((T, T), bool)),
        (Mask(causal=True), CAUSAL),
        (Mask(causal=True, window=3), CAUSAL & ~np.tril(np.ones((T, T), bool), -3)),
        (Mask(window=2), np.tril(np.ones((T, T), bool), 1) & np.triu(np.ones((T, T), bool), -1)),
        (Mask(causal=True, segments=(SEGMENTS, SEGMENTS)), CAUSAL & SAME),
        (Mask(allowed=jnp.asarray(ANY)), ANY),
    ],
    ids=["full", "causal", "window", "local", "segments", "arbitrary"],
)
def test_masks(mask, allowed):
    query, key, value = inputs()
    got = attend(query, key, value, mask, scale=H**-0.5)
    want = reference(query, key, value, np.broadcast_to(allowed, (B, T, T)))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_prefix_is_seen_by_all():
    query, key, value = inputs()
    prefix = jnp.array([3, 5])
    allowed = CAUSAL | (np.arange(T) < np.asarray(prefix)[:, None, None])
    got = attend(query, key, value, Mask(causal=True, prefix=prefix), scale=H**-0.5)
    np.testing.assert_allclose(got, reference(query, key, value, allowed), rtol=1e-4, atol=1e-5)


def test_bias_and_soft_cap():
    query, key, value = inputs()
    slopes = np.array([0.5, 0.25, 0.125, 0.0625], np.float32)
    distance = np.abs(np.arange(T)[None, :] - np.arange(T)[:, None])
    want = reference(
        query,
        key,
        value,
        np.broadcast_to(CAUSAL, (B, T, T)),
        -slopes[:, None, None] * distance,
        5.0,
    )
    got = attend(
        query,
        key,
        value,
        Mask(causal=True),
        bias=Bias(jnp.array(slopes)),
        scale=H**-0.5,
        soft_cap=5.0,
    )
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "length, biased",
    tried([(8, True), (96, False), (256, False), (320, True)], [(96, False), (320, True)]),
)
@pytest.mark.parametrize(
    "causal, segmented",
    tried(list(itertools.product([True, False], repeat=2)), [(True, False), (False, True)]),
)
@pytest.mark.parametrize("dtype, tolerance", [(jnp.float32, 2e-5), (jnp.bfloat16, 2e-2)])
def test_training_kernel_and_its_gradient(length, biased, causal, segmented, dtype, tolerance):
    """Whatever fast path a mask of blocks takes equals the dense one, forward and backward."""
    query, key, value = (x / 3 for x in inputs(length))
    segments = jnp.cumsum(jax.random.bernoulli(jax.random.key(5), 0.1, (B, length)), -1)
    mask = Mask(causal=causal, segments=(segments, segments) if segmented else None)
    dense = Mask(allowed=mask.dense(kernels.slots(query), kernels.slots(key))[:, 0])

    made = jax.random.normal(jax.random.key(6), (1, N, length, length))

    def loss(mask, dtype, made, *x):
        bias = Bias(jnp.zeros(N), made=made) if biased else None
        y = attend(*x, mask, bias=bias, scale=H**-0.5, dtype=dtype)
        return (y * jnp.cos(jnp.arange(y.size).reshape(y.shape))).sum(), y

    gradient = lambda *a: jax.jit(
        jax.value_and_grad(loss, argnums=(2, 3, 4, 5), has_aux=True), static_argnums=1
    )(*a)
    (_, got), got_gradients = gradient(mask, dtype, made, query, key, value)
    (_, want), want_gradients = gradient(dense, jnp.float32, made, query, key, value)
    assert got_gradients[0].any() == biased
    for a, b in zip((got, *got_gradients), (want, *want_gradients)):
        assert jnp.abs(a - b).max() <= tolerance * jnp.abs(b).max()


def test_fewer_keys_than_queries_in_segments_of_their_own():
    """An encoder's output, read in blocks: padding is a segment of both."""
    query, _, _ = inputs(6)
    _, key, value = inputs(11, seed=1)
    here, there = np.array([[1] * 6, [1] * 4 + [0] * 2]), np.array([[1] * 9 + [0] * 2, [1] * 11])
    there[1, 0] = 0  # so that padding sees something
    got = attend(query, key, value, Mask(segments=(here, there)), scale=H**-0.5)
    want = reference(query, key, value, here[:, :, None] == there[:, None, :])
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_weights_drop_out_where_a_key_is_given():
    x = jax.random.normal(jax.random.key(0), (2, 16, 8))
    position = jnp.broadcast_to(jnp.arange(16), (2, 16))
    plain = Attention(2, 2, 4)
    params = plain.init(jax.random.key(1), x, position, Mask())
    dropping = plain.clone(dropout=0.5)
    read = lambda module, **rngs: np.asarray(
        module.apply(params, x, position, Mask(), rngs=rngs)[0]
    )
    np.testing.assert_array_equal(read(dropping), read(plain))
    drawn = jax.jit(lambda key: dropping.apply(params, x, position, Mask(), rngs={"dropout": key}))
    draws = [np.asarray(drawn(jax.random.key(i))[0]) for i in range(400)]
    assert np.abs(draws[0] - read(plain)).max() > 0.01
    mean, error = np.mean(draws, 0), np.std(draws, 0) / 20
    assert (np.abs(mean - read(plain)) < 5 * error + 1e-6).all()


def test_a_row_that_sees_nothing_is_finite():
    query, key, value = inputs()
    order = (jnp.zeros((B, T), jnp.int32), jnp.full((B, T), EMPTY))
    assert jnp.isfinite(attend(query, key, value, Mask(causal=True), order, scale=1.0)).all()


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_cached_equals_full_with_uneven_rows(kv_heads):
    """Row 0 has five tokens and row 1 three, padded; both then read two more."""
    module = Attention(4, kv_heads, 8, rotary=Rotary())
    x = jax.random.normal(jax.random.key(0), (2, 7, 32))
    position = jnp.broadcast_to(jnp.arange(7), (2, 7))
    params = module.init(jax.random.key(1), x, position, Mask(causal=True))
    apply = jax.jit(module.apply)
    full, _ = apply(params, x, position, Mask(causal=True))

    lengths = jnp.array([5, 3])[:, None]
    first = jnp.where(position[:, :5] < lengths, position[:, :5], EMPTY)
    _, cache = apply(params, x[:, :5], first, Mask(causal=True), cache=module.init_cache(2, 7))
    rest = lengths + jnp.arange(2)
    new = jnp.take_along_axis(x, rest[..., None], 1)
    got, cache = apply(params, new, rest, Mask(causal=True), cache=cache)
    want = jnp.take_along_axis(full, rest[..., None], 1)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_cudnn_asked_for_on_cpu_is_recorded():
    from lm_research import log

    log.forget()
    query, key, value = inputs()
    attend(query, key, value, Mask(causal=True), scale=1.0, kernel="cudnn")
    recorded = str(log.facts())
    assert "cudnn" in recorded and "GPU" in recorded


@pytest.mark.parametrize("sizes", [{"data": 1}, {"data": 2, "fsdp": 2, "tensor": 2}], ids=str)
def test_splash_attention_in_its_interpreter(sizes):
    """Traced, on a mesh, as in training."""
    query, key, value = (x[:1] / 3 for x in inputs(256))
    query, key, value = (jnp.concatenate([x, x[:, ::-1], 2 * x, -x]) for x in (query, key, value))
    segments = jnp.broadcast_to(jnp.arange(256) // 100, (4, 256))
    mask = Mask(causal=True, segments=(segments, segments))
    want = attend(query, key, value, mask, scale=H**-0.5)
    with mesh.single() if len(sizes) == 1 else mesh.Mesh(**sizes).activate():
        got = jax.jit(
            lambda *x: kernels._splash(
                *x, mask, None, None, H**-0.5, None, jnp.float32, interpret=True
            )
        )(query, key, value)
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype, reason", [("bfloat16", ""), ("float32", "16 bits")])
def test_cudnn_is_chosen_by_the_name_of_a_dtype_too(monkeypatch, dtype, reason):
    from lm_research.layers import kernels

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    found = kernels._why_not_cudnn(jnp.zeros((1, 8, 2, 64)), None, None, None, dtype)
    assert reason in found and bool(reason) == bool(found)
