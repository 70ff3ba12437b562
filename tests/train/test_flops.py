from lm_research import tree
from lm_research.hub import names
from lm_research.models import ALBERT, BERT, T5, Classifier, Embedder, Llama, Mixtral
from lm_research.train.flops import flops_per_token

LENGTH = 16
SHAPE = dict(vocab=64, width=32, layers=2, heads=4, kv_heads=2)


def flops(model):
    params = tree.unboxed(names.abstract(model))
    return flops_per_token(model, params, LENGTH)


def test_only_the_experts_that_read_a_token_count():
    sparse, dense = Mixtral(**SHAPE, hidden=24, experts=8, active=2), Llama(**SHAPE, hidden=48)
    router = 6 * 2 * 32 * 8
    assert flops(sparse) == flops(dense) + router


def test_blocks_side_by_side_count_as_layers():
    heads = 3 * (4 * 8 * 12 * 16 + 6 * (32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 48))
    one = flops(Llama(**SHAPE | {"layers": 1}, hidden=48))
    assert flops(Llama(**SHAPE, hidden=48, ahead=3)) == one + heads


ENCODER = dict(vocab=64, width=32, layers=4, heads=4, hidden=48)
LAYERS = 4 * (6 * (4 * 32 * 32 + 2 * 32 * 48) + 12 * 32 * LENGTH)


def test_layers_that_share_their_parameters_count_each():
    head = 6 * (32 * 32 + 64 * 32)
    assert flops(BERT(**ENCODER)) == LAYERS + head
    factorised = 6 * (2 * 8 * 32 + 64 * 8)  # what makes D of C, and C of D for the head
    for groups in (1, 2):
        assert flops(ALBERT(**ENCODER, embedding=8, groups=groups)) == LAYERS + factorised


def test_what_stands_on_a_trunk_has_no_vocabulary_head():
    bert, names = BERT(**ENCODER), ("a", "b", "c")
    assert flops(Embedder(bert)) == LAYERS
    dense = 6 * 32 * 32 / LENGTH
    assert flops(Classifier(bert, names)) == LAYERS + dense + 6 * 32 * 3 / LENGTH
    assert flops(Classifier(bert, names, pool="each")) == LAYERS + 6 * 32 * 3
    sparse, dense = Mixtral(**SHAPE, hidden=24, experts=8, active=2), Llama(**SHAPE, hidden=48)
    router = 6 * 2 * 32 * 8
    assert flops(Classifier(sparse, names)) == flops(Classifier(dense, names)) + router


def test_an_encoder_decoder_that_writes_classes_has_its_head():
    shape = dict(vocab=64, width=32, layers=1, heads=4, hidden=48)
    for tied in (True, False):
        model = T5(**shape, tied=tied)
        assert flops(Classifier(model)) == flops(model)
