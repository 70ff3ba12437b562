from lm_research import tree
from lm_research.hub import names
from lm_research.models import Llama, Mixtral
from lm_research.train.flops import active_share, flops_per_token

SHAPE = dict(vocab=64, width=32, layers=2, heads=4, kv_heads=2)


def flops(model):
    params = tree.unboxed(names.abstract(model))
    return flops_per_token(params, 16, False, active_share(model))


def test_only_the_experts_that_read_a_token_count():
    sparse, dense = Mixtral(**SHAPE, hidden=24, experts=8, active=2), Llama(**SHAPE, hidden=48)
    router = 6 * 2 * 32 * 8
    assert flops(sparse) == flops(dense) + router


def test_blocks_side_by_side_count_as_layers():
    heads = 3 * (4 * 8 * 12 * 16 + 6 * (32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 48))
    one = flops(Llama(**SHAPE | {"layers": 1}, hidden=48))
    assert flops(Llama(**SHAPE, hidden=48, ahead=3)) == one + heads
