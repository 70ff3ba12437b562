"""What was said is held back as the logits processors of `transformers` do."""

import jax.numpy as jnp
import numpy as np
import pytest

from lm_research.infer.repetition import Past, Repetition


@pytest.mark.parametrize("penalty, no_repeat", [(1.7, None), (0.5, 1), (1.0, 2), (1.3, 3)])
def test_scores_are_those_of_transformers(penalty, no_repeat):
    """Rows of uneven length, one of them too short for a sequence to repeat."""
    torch = pytest.importorskip("torch", reason="the reference is torch's: extra `verify`")
    logits = pytest.importorskip("transformers", reason="it is the reference").generation
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 4, size=count) for count in (12, 7, 1, 4)]
    scores = rng.normal(size=(4, 6)).astype(np.float32)
    tokens = np.stack([np.pad(row, (12 - len(row), 0)) for row in rows])
    past = Past.of(jnp.asarray(tokens[:, :11]), jnp.asarray([len(row) - 1 for row in rows]), 5)
    past = past.add(jnp.asarray(tokens[:, 11]))
    found = Repetition(penalty, no_repeat)(jnp.asarray(scores), past)
    processors = [logits.RepetitionPenaltyLogitsProcessor(penalty)]
    if no_repeat is not None:
        processors.append(logits.NoRepeatNGramLogitsProcessor(no_repeat))
    for row, own, mine in zip(rows, scores, found):
        want = torch.tensor(own)[None]
        for process in processors:
            want = process(torch.tensor(row)[None], want)
        np.testing.assert_allclose(mine, want[0], rtol=1e-6)
    assert np.isinf(found).any() == (no_repeat is not None)


def test_what_makes_no_sense_is_refused():
    for given, words in (((0.0, None), "repetition_penalty is 0.0"), ((1.0, 0), "no_repeat is 0")):
        with pytest.raises(ValueError, match=words):
            Repetition(*given)
    assert not Repetition() and Repetition(1.1) and Repetition(no_repeat=2)
