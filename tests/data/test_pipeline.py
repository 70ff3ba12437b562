import threading
import time

import numpy as np
import pytest

from lm_research.data import Bytes, Memory, Windows, pipeline, shards
from lm_research.data.permutation import permuted
from lm_research.errors import UserError
from lm_research.objectives import Classify


class Noisy:
    """The record's tokens and a random number, so that both order and randomness show."""

    def example(self, record, rng):
        return {
            "tokens": record["tokens"],
            "weights": np.ones(len(record["tokens"]), np.float32),
            "noise": rng.random(2),
        }


@pytest.fixture
def windows(tmp_path):
    texts = [f"text number {i}" for i in range(30)]
    return Windows(shards.write(tmp_path / "shards", texts, Bytes().train([])), 8)


def drawn(source, count, **settings):
    settings = {"seed": 3, "size": 4, **settings}
    with pipeline.batches(source, Noisy(), **settings) as stream:
        return [next(stream) for _ in range(count)]


def same(some, others):
    assert len(some) == len(others)
    for (i, a), (j, b) in zip(some, others):
        assert (i == j).all() and a.keys() == b.keys()
        for name in a:
            assert np.array_equal(a[name], b[name]), name


def test_resumes_where_it_stopped(windows):
    count = 2 * len(windows) // 4 + 5  # into the third epoch
    whole = drawn(windows, count)
    same(drawn(windows, count - 7, start=28), whole[7:])
    same(drawn(windows, 3, start=4), whole[1:4])
    assert (whole[0][1]["noise"] != drawn(windows, 1, seed=4)[0][1]["noise"]).all()


def test_an_example_depends_on_its_index_alone(windows):
    sizes = [drawn(windows, 24 // size, size=size) for size in (1, 4, 6)]
    rows = [np.concatenate([batch["noise"] for _, batch in found]) for found in sizes]
    assert all((rows[0] == other).all() for other in rows)
    assert len(np.unique(rows[0])) == rows[0].size


def test_processes_make_slices_of_the_same_batches(windows):
    whole = drawn(windows, 5)
    parts = [drawn(windows, 5, share=(p, 2)) for p in range(2)]
    for number, (indices, batch) in enumerate(whole):
        assert all((part[number][0] == indices).all() for part in parts)
        for name in batch:
            joined = np.concatenate([part[number][1][name] for part in parts])
            assert np.array_equal(joined, batch[name])


def test_an_epoch_has_every_record_once_in_the_stated_order(windows):
    records = Memory([{"tokens": np.array([i])} for i in range(12)])
    found = [b["tokens"][:, 0] for _, b in drawn(records, 6)]
    epochs = np.concatenate(found).reshape(2, 12)
    for number, epoch in enumerate(epochs):
        assert (epoch == permuted(np.arange(12), 12, 3, number)).all()
    assert (epochs[0] != epochs[1]).any()
    plain = [b["tokens"][:, 0] for _, b in drawn(records, 3, shuffle=False)]
    assert np.concatenate(plain).tolist() == list(range(12))


def test_later_epochs_cut_the_text_elsewhere_and_hold_the_same_tokens(windows):
    size = len(windows)
    batches = drawn(windows, 3, size=size)
    order = [permuted(np.arange(size), size, 3, epoch) for epoch in range(3)]
    assert (batches[0][1]["tokens"] == windows.gather(order[0])["tokens"]).all()
    second, third = (set(map(bytes, batches[i][1]["tokens"])) for i in (1, 2))
    assert second != third and second != set(map(bytes, batches[0][1]["tokens"]))
    shift = int(permuted(0, windows.length, 3, 1))
    moved = windows.gather(order[1], np.full(size, shift))["tokens"]
    assert shift and (batches[1][1]["tokens"] == moved).all()


def test_a_batch_of_a_later_epoch_costs_no_more(windows, monkeypatch):
    """However many examples it has; and records that are not moved ask for no shifts."""
    calls = []
    counted = lambda *given: calls.append(given) or permuted(*given)
    monkeypatch.setattr(pipeline, "permuted", counted)
    records = Memory([{"tokens": np.array([i])} for i in range(12)])
    for source, most in ((windows, 2), (records, 1)):
        plan = pipeline.Plan(source, Noisy(), seed=3, size=len(source))
        for number in (0, 4):
            calls.clear()
            plan.batch(number)
            assert len(calls) <= most, number


def test_stops(windows):
    with pipeline.batches(windows, Noisy(), seed=0, size=4, start=8, stop=21) as stream:
        assert [indices[0] for indices, _ in stream] == [8, 12, 16]


def test_close_ends_its_threads(windows):
    before = threading.active_count()
    stream = pipeline.batches(windows, Noisy(), seed=0, size=4)
    next(stream)
    assert threading.active_count() > before
    stream.close()
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before


@pytest.mark.parametrize("count", [1, 2])
def test_heldout_is_read_once_in_order(windows, count):
    batches = zip(
        *(pipeline.heldout_batches(windows, Noisy(), 4, (p, count)) for p in range(count))
    )
    rows = [{k: np.concatenate([p[k] for p in parts]) for k in parts[0]} for parts in batches]
    tokens = np.concatenate([row["tokens"] for row in rows])
    weights = np.concatenate([row["weights"] for row in rows])
    size = len(windows)
    assert len(tokens) == -(-size // 4) * 4 > size
    assert (tokens[:size] == windows.gather(np.arange(size))["tokens"]).all()
    assert (weights[:size] == 1).all() and (weights[size:] == 0).all()


def test_random_numbers_stay_the_same():
    assert pipeline.generator(0, 0).integers(2**32, size=2).tolist() == [149215387, 49592932]
    assert pipeline.generator(0, 1).random() != pipeline.generator(1, 0).random()


def test_bad_sizes(windows):
    with pytest.raises(UserError, match="does not divide among 3 parts of the mesh"):
        pipeline.batches(windows, Noisy(), seed=0, size=4, share=(0, 3))
    with pytest.raises(UserError, match="no records"):
        pipeline.batches(Memory([]), Noisy(), seed=0, size=4)


class Labels:
    """Texts of many lengths, and what `Classify` makes of them."""

    lengths = np.array([3, 20, 1, 40, 16, 17, 5, 64, 30, 2])

    def __len__(self):
        return len(self.lengths)

    def __getitem__(self, index):
        return {"text": np.arange(1, 1 + self.lengths[index], dtype=np.int32), "label": index}


@pytest.mark.parametrize("shuffle", [False, True])
def test_batches_are_as_long_as_their_longest_text(shuffle):
    """Nothing but padding is missing, and every process has the same shapes."""
    objective, source, widths = Classify(64), Labels(), set()
    for number in range(8):
        made = [
            pipeline.Plan(source, objective, 0, 2, shuffle=shuffle, share=share)
            for share in ((0, 1), (0, 2), (1, 2))
        ]
        whole, *parts = (plan.batch(number) for plan in made)
        for name in whole:
            assert np.array_equal(whole[name], np.concatenate([part[name] for part in parts]))
        T = whole["tokens"].shape[1]
        longest = max(source.lengths[label] for label in whole["label"])
        assert longest <= T == whole["segments"].shape[1] <= max(16, longest + 8, 5 * longest // 4)
        assert (whole["segments"].sum(1) == source.lengths[whole["label"]]).all()
        widths.add(T)
    assert len(widths) > 2
    both = pipeline.together([made[0].batch(number) for number in range(4)])
    assert both["tokens"].shape[:2] == (4, 2) and both["label"].shape == (4, 2)
    assert (both["segments"].sum(2) == source.lengths[both["label"]]).all()


def test_sizes_of_batches():
    size = pipeline.padded_length
    assert sorted({size(n) for n in range(1, 193)}) == [16, 24, 32, 48, 64, 96, 128, 192]
    fine = *range(16, 65, 8), *range(80, 129, 16), *range(160, 257, 32)
    assert sorted({size(n, 4) for n in range(1, 257)}) == list(fine)
    assert all(0 <= size(n, 4) - n < max(16, n // 4) for n in range(1, 2000))


def test_grouped_batches_hold_texts_of_like_length():
    """The same examples within every window, in whatever pieces and processes they are drawn."""
    objective, source = Classify(64), Labels()
    plain = pipeline.Plan(source, objective, 0, 2)
    grouped = pipeline.Plan(source, objective, 0, 2, grouped=5)
    for window in range(4):  # each is an epoch of ten records
        batches = [grouped.indices(number) for number in range(5 * window, 5 * window + 5)]
        expected = [plain.indices(number) for number in range(5 * window, 5 * window + 5)]
        assert sorted(np.concatenate(batches)) == np.concatenate(expected).tolist()
        labels = [grouped.batch(5 * window + i)["label"] for i in range(5)]
        assert sorted(np.concatenate(labels)) == list(range(10))
        pairs = sorted(source.lengths[row].tolist() for row in labels)
        assert pairs == [[1, 2], [3, 5], [16, 17], [20, 30], [40, 64]]
    order = [[grouped.indices(5 * w + i)[0] % 10 for i in range(5)] for w in range(3)]
    assert order[0] != order[1] != order[2]  # not the shortest first
    later = pipeline.Plan(source, objective, 0, 2, start=7, grouped=5)
    straight = np.concatenate([grouped.indices(number) for number in range(6)])
    assert (later.indices(1) == straight[9:11]).all()  # begins anywhere, over two windows
    rows = [
        pipeline.Plan(source, objective, 0, 2, share=(i, 2), grouped=5).batch(3)["label"]
        for i in range(2)
    ]
    assert np.concatenate(rows).tolist() == grouped.batch(3)["label"].tolist()
