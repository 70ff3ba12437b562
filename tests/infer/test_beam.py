"""Beam search finds what `transformers` finds, and where it can follow all texts, the best one."""

import functools
import itertools

import flax.linen as nn
import jax
import numpy as np
import pytest

from lm_research import config, mesh
from lm_research.errors import UserError
from lm_research.hub import load
from lm_research.infer import Beam, beam_search, generate, score
from lm_research.infer.repetition import Repetition
from lm_research.models import GPT2, OriginalTransformer
from lm_research.models.initial import initial
from lm_research.train.experiment import CONTENTS

V, EOS, LENGTH = 37, 1, 14
BOTH = {"vocab_size": V, "eos_token_id": EOS, "pad_token_id": 0, "bos_token_id": 2}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 4}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 48}
LLAMA = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
LLAMA |= {"num_attention_heads": 4, "num_key_value_heads": 2}
BART = {"encoder_layers": 1, "decoder_layers": 1}
BART |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "d_model": 32}
BART |= {"encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 48}
BART |= {"decoder_start_token_id": 2, "forced_eos_token_id": None}
CASES = {
    "t5": ("T5ForConditionalGeneration", T5 | {"decoder_start_token_id": 0}),
    "bart": ("BartForConditionalGeneration", BART | {"forced_bos_token_id": 5}),
    "marian": ("MarianMTModel", BART | {"forced_bos_token_id": None}),
    "gpt2": ("GPT2LMHeadModel", GPT),
    "llama": ("LlamaForCausalLM", LLAMA),
}
PROMPTS = [[3, 4, 5, 6, 7, 8, 9], [11], [12, 13, 14, 15], [30, 6, 22, 9, 30]]
TRIED = [
    ("t5", Beam(5, 1.0)),
    ("t5", Beam(4, 2.0, True)),
    ("bart", Beam(5, 0.0)),
    ("marian", Beam(5, 0.6, "never")),
    ("gpt2", Beam(5, 1.0)),
    ("llama", Beam(3, -0.5)),
    ("t5", Beam(3, repetition=Repetition(1.5, 2))),
    ("bart", Beam(3, repetition=Repetition(0.7, 3))),
]


@functools.cache
def reference(name, directory):
    """A model of `transformers` whose texts end now and then, and what we load of it."""
    torch = pytest.importorskip("torch", reason="the reference is torch's: extra `verify`")
    transformers = pytest.importorskip("transformers", reason="it is the reference: extra `verify`")
    kind, values = CASES[name]
    torch.manual_seed(3)
    kind = getattr(transformers, kind)
    theirs = kind(kind.config_class(**BOTH | values)).eval()
    with torch.no_grad():
        for parameter, weight in theirs.named_parameters():
            if name == "marian" and "embed_positions" in parameter:
                continue  # sinusoids
            norm = "norm" in parameter or "ln_" in parameter
            weight.normal_(0, 0.4).add_(float(norm and parameter.endswith("weight")))
    theirs.save_pretrained(directory / name)
    ours = config.build(load.section(directory / name), CONTENTS, "model")
    with mesh.single():
        return theirs, ours, load.load(directory / name, ours)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("references")


def found_by_transformers(theirs, way, samples):
    """Tokens and scores of the `samples` best texts of all prompts."""
    import torch

    width = max(map(len, PROMPTS))
    tokens = torch.tensor([[0] * (width - len(p)) + p for p in PROMPTS])
    present = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in PROMPTS])
    if theirs.config.is_encoder_decoder:  # whose positions are slots
        tokens = torch.tensor([p + [0] * (width - len(p)) for p in PROMPTS])
        present = present.flip(1)
    found = theirs.generate(
        tokens,
        attention_mask=present,
        max_new_tokens=LENGTH,
        do_sample=False,
        num_beams=way.beams,
        length_penalty=way.length_penalty,
        early_stopping=way.early_stopping,
        repetition_penalty=way.repetition.penalty,
        no_repeat_ngram_size=way.repetition.no_repeat or 0,
        num_return_sequences=samples,
        return_dict_in_generate=True,
        output_scores=True,
    )
    new = found.sequences[:, 1 if theirs.config.is_encoder_decoder else width :].tolist()
    texts = [text[: text.index(EOS)] if EOS in text else text for text in new]
    return texts, found.sequences_scores.numpy()


@pytest.mark.parametrize("name, way", TRIED, ids=str)
def test_the_texts_of_transformers_are_found(name, way, directory):
    theirs, ours, params = reference(name, directory)
    texts, scores = found_by_transformers(theirs, way, 3)
    found = beam_search(ours, params, PROMPTS, beam=way, length=LENGTH, eos=(EOS,), samples=3)
    assert [(r.request, r.sample) for r in found] == [(i, j) for i in range(4) for j in range(3)]
    assert [r.tokens.tolist() for r in found] == texts
    np.testing.assert_allclose([r.score for r in found], scores, rtol=2e-4, atol=2e-4)


@functools.cache
def small():
    """A model of four tokens."""
    model = GPT2(4, 16, 1, 2, context=16, deviation=1.0)
    return model, nn.unbox(jax.jit(functools.partial(initial, model))(jax.random.key(0)))


def test_with_a_beam_for_every_text_the_best_of_all_are_found():
    model, params = small()
    prompt, end, length, penalty = [2, 3], 1, 4, 0.7
    going = [0, 2, 3]  # each text ends, or is as long as it may be
    texts = [
        (*text, end) if count < length else text
        for count in range(length + 1)
        for text in itertools.product(going, repeat=count)
    ]
    texts += [(*text, end) for text in itertools.product(going, repeat=length - 1)]
    texts = sorted({text for text in texts if len(text) <= length})
    assert len(texts) == 1 + 3 + 9 + 27 + 81
    logprobs = [s["logprobs"][2:] for s in score(model, params, [[*prompt, *t] for t in texts])]
    scores = [sum(each) / len(each) ** penalty for each in logprobs]
    best = sorted(range(len(texts)), key=lambda i: -scores[i])[:5]
    beam = Beam(40, penalty, "never")
    found = beam_search(model, params, [prompt], beam=beam, length=length, eos=(end,), samples=5)
    for i, result in zip(best, found, strict=True):
        ended = texts[i][-1] == end
        assert result.ended == ended
        assert (*result.tokens.tolist(), *[end] * ended) == texts[i]
        np.testing.assert_allclose(result.score, scores[i], atol=1e-5)
        np.testing.assert_allclose(result.logprobs, logprobs[i][: len(result.tokens)], atol=1e-5)


def test_a_mesh_and_neighbours_change_nothing_and_one_beam_is_greedy():
    model = OriginalTransformer(16, 16, 1, 2, 32)
    params = nn.unbox(jax.jit(functools.partial(initial, model))(jax.random.key(1)))
    params = jax.tree.map(lambda p: 3 * p, params)  # as drawn, it says the same of every source
    prompts, beam = [[3, 4, 5], [9], [7, 7]], Beam(3)
    search = functools.partial(beam_search, model, params, length=6, eos=(0,))
    want = [r.tokens.tolist() for r in search(prompts, beam=beam)]
    others = search([[1, 2], [9], [4, 4, 4, 4]], beam=beam)
    assert others[1].tokens.tolist() == want[1] and others[0].tokens.tolist() != want[0]
    with mesh.Mesh(2, 2, 2).activate():
        assert [r.tokens.tolist() for r in search(prompts, beam=beam)] == want
    greedy = generate(model, params, prompts, length=6, eos=(0,))
    one = search(prompts, beam=Beam(1, early_stopping=True))
    assert [r.tokens.tolist() for r in one] == [r.tokens.tolist() for r in greedy]


def test_more_texts_than_beams_are_refused():
    model, params = small()
    with pytest.raises(UserError, match="4 samples are asked for, of 3 beams"):
        beam_search(model, params, [[1]], beam=Beam(3), length=2, samples=4)
    with pytest.raises(UserError, match="beams is 0"):
        Beam(0)
