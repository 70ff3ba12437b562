"""Pairs of texts as one sequence, beside what `tokenizers` and `transformers` make of them."""

import numpy as np
import pytest
import tokenizers
from tokenizers import processors

from lm_research.data import BPE, Bytes, Characters, Tokenizer, Words
from lm_research.data.frame import PairFrame

TEXTS = ["the cat sat on the mat", "a bird", "two birds fly over the old red hill, and far away"]
FRAMES = {
    "bert": processors.BertProcessing(("<|sep|>", 2), ("<|cls|>", 1)),
    "roberta": processors.RobertaProcessing(("<|sep|>", 2), ("<|cls|>", 1)),
    "xlnet": processors.TemplateProcessing(
        single="$A:0 <|sep|>:0 <|cls|>:2",
        pair="$A:0 <|sep|>:0 $B:1 <|sep|>:1 <|cls|>:2",
        special_tokens=[("<|cls|>", 1), ("<|sep|>", 2)],
    ),
}


@pytest.mark.parametrize("name", FRAMES)
def test_framed_and_cut_as_tokenizers_does(name):
    ours = BPE(300, roles=("cls", "sep")).train(TEXTS)
    inner = tokenizers.Tokenizer.from_str(ours._tokenizer.to_str())
    inner.post_processor = FRAMES[name]
    framed = Tokenizer(tokenizers.Tokenizer.from_str(inner.to_str()), {"eos": "<|endoftext|>"})
    for first in TEXTS:
        for second in TEXTS:
            for length in (*range(6, 20), 200):
                inner.enable_truncation(length, strategy="longest_first")
                theirs = inner.encode(first, second)
                tokens, types, whole = framed.fitted(first, second, length)
                assert tokens.tolist() == theirs.ids and types.tolist() == theirs.type_ids
            assert len(framed.fitted(first, second)[0]) == whole == len(theirs.ids)


@pytest.mark.parametrize("second", [None, "so so"])
def test_what_transformers_does_not_frame_classifiers_read_bare(second):
    """Such as GPT-2's texts: a last token of our own would be another one to judge by."""
    ours = BPE(300).train(TEXTS)
    inner = tokenizers.Tokenizer.from_str(ours._tokenizer.to_str())
    assert ours.eos is not None
    for first in TEXTS:
        for length in (6, 200):
            inner.enable_truncation(length, strategy="longest_first")
            assert ours.fitted(first, second, length)[0].tolist() == inner.encode(first, second).ids


def test_without_special_tokens_texts_end():
    """Where one is a question, or an encoder-decoder reads them; classifiers read them bare."""
    tokenizer = Bytes().train(())
    tokens, types = tokenizer.pair_frame.joined(*tokenizer.encode_batch(["ab", "c"]))
    assert tokens.tolist() == [97, 98, 256, 99, 256] and types.tolist() == [0] * 5
    assert tokenizer.complete("ab").tolist() == [97, 98, 256]
    tokens, types, whole = tokenizer.fitted("ab", "c", 8)
    assert tokens.tolist() == [97, 98, 99] and types.tolist() == [0] * 3 and whole == 3
    tokens, types, whole = tokenizer.fitted("abc", length=2)
    assert tokens.tolist() == [97, 98] and types is None and whole == 3
    assert tokenizer.fitted("abc", length=3, ends=True)[0].tolist() == [97, 98, 256]
    assert tokenizer.fitted("")[0].tolist() == [256]
    tokens, *_ = Characters().train(["bc", "c"]).fitted("bc", "c", 8)
    assert tokens.tolist() == [0, 1, 1]
    bag = Words().train(["b c"])
    both = np.concatenate([bag.whole("b"), bag.whole("c")])
    assert bag.fitted("b", "c", 8)[0].tolist() == both.tolist()


def test_the_classic_frame():
    frame = PairFrame.classic(1, 2)
    tokens, types = frame.joined(np.int32([7, 8]), np.int32([9]))
    assert tokens.tolist() == [1, 7, 8, 2, 9, 2] and types.tolist() == [0, 0, 0, 0, 1, 1]
    assert frame.size == 3 and frame.kept(9, 2, 8) == (3, 2) and frame.kept(9, 9, 8) == (2, 3)
