"""Beam search finds what `transformers` finds, and where it can follow all texts, the best one."""

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_research import config, mesh
from lm_research.errors import UserError
from lm_research.hub import load
from lm_research.infer import Beam, beam_search, generate, score
from lm_research.models import GPT2, OriginalTransformer
from lm_research.models.initial import initial
from lm_research.train.experiment import CONTENTS

V, EOS, LENGTH = 37, 1, 14
BOTH = {"vocab_size": V, "eos_token_id": EOS, "pad_token_id": 0, "bos_token_id": 2}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 48}
LLAMA = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
LLAMA |= {"num_attention_heads": 4, "num_key_value_heads": 2}
BART = {f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in (("layers", 2),)}
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
WAYS = [Beam(5, 1.0), Beam(5, 0.0), Beam(4, 2.0, True), Beam(3, -0.5), Beam(5, 0.6, "never")]


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
    """Tokens and scores of the `samples` best texts of all prompts, which are padded to the left."""
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
        num_return_sequences=samples,
        return_dict_in_generate=True,
        output_scores=True,
    )
    new = found.sequences[:, 1 if theirs.config.is_encoder_decoder else width :].tolist()
    texts = [text[: text.index(EOS)] if EOS in text else text for text in new]
    return texts, found.sequences_scores.numpy()


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_the_texts_of_transformers_are_found(name, way, directory):
    theirs, ours, params = reference(name, directory)
    texts, scores = found_by_transformers(theirs, way, 3)
    found = beam_search(ours, params, PROMPTS, beam=way, length=LENGTH, eos=(EOS,), samples=3)
    assert [(r.request, r.sample) for r in found] == [(i, j) for i in range(4) for j in range(3)]
    assert [r.tokens.tolist() for r in found] == texts
    np.testing.assert_allclose([r.score for r in found], scores, rtol=2e-4, atol=2e-4)
