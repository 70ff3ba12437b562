import pickle
import sys

import numpy as np
import pytest

from lm_research.data import TFDS
from lm_research.errors import UserError

tfds = pytest.importorskip("tensorflow_datasets")


class SmallTexts(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i in range(20):
            yield i, {"text": f"naïve {i}"}


class SmallPairs(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        label = tfds.features.ClassLabel(names=["no", "yes"])
        texts = dict.fromkeys(("first", "second"), tfds.features.Text())
        features = tfds.features.FeaturesDict({**texts, "label": label, "idx": np.int32})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, manager):
        return {"train": self._generate_examples([1, 0]), "test": self._generate_examples([-1])}

    def _generate_examples(self, labels):
        for i, label in enumerate(labels):
            yield i, {"first": f"a {i}", "second": "b", "label": label, "idx": i}


class SmallReviews(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        texts = dict.fromkeys(("review", "title"), tfds.features.Text())
        label = tfds.features.ClassLabel(names=["neg", "pos"])
        features = tfds.features.FeaturesDict({**texts, "stars": label})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, manager):
        return {"train": self._generate_examples(8), "test": self._generate_examples(3)}

    def _generate_examples(self, count):
        for i in range(count):
            yield i, {"review": f"seen {i} times", "title": f"{i}", "stars": i % 2}


class SmallSentences(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        label = tfds.features.ClassLabel(names=["O", "B-X"])
        words = {"tokens": tfds.features.Text(), "ner": label}
        features = {name: tfds.features.Sequence(one) for name, one in words.items()}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, manager):
        return {"train": self._generate_examples(8), "test": self._generate_examples(3)}

    def _generate_examples(self, count):
        for i in range(count):
            yield i, {"tokens": ["naïve", f"Ann{i}", "sat"], "ner": [0, 1, 0]}


class SmallQuestions(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        texts = dict.fromkeys(("id", "question", "context"), tfds.features.Text())
        answer = {"text": tfds.features.Text(), "answer_start": np.int32}
        features = {**texts, "answers": tfds.features.Sequence(answer)}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, manager):
        return {"train": self._generate_examples(8), "test": self._generate_examples(3)}

    def _generate_examples(self, count):
        for i in range(count):
            answers = [{"text": f"Ann{i}", "answer_start": 3}] if i % 3 else []
            asked = {"question": "Who?", "context": f"It Ann{i} was."}
            yield i, {"id": f"{count} {i}", **asked, "answers": answers}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    directory = str(tmp_path_factory.mktemp("tfds"))
    for kind in (SmallTexts, SmallPairs, SmallReviews, SmallSentences, SmallQuestions):
        kind(data_dir=directory, file_format="array_record").download_and_prepare()
    return directory


def test_reads_text_without_tensorflow(prepared):
    source = TFDS("small_texts", "train", data_dir=prepared)
    texts = {record["text"] for record in source}
    assert texts == {f"naïve {i}" for i in range(20)}
    assert len(TFDS("small_texts", "train[5:]", data_dir=prepared)) == 15
    assert pickle.loads(pickle.dumps(source))[3] == source[3]
    assert "tensorflow" not in sys.modules


def test_reads_pairs_and_names_of_classes(prepared):
    fields = {"text": "first", "pair": "second", "label": "label", "id": "idx"}
    source = TFDS("small_pairs", "train", data_dir=prepared, fields=fields)
    found = sorted(source, key=lambda record: record["id"])
    assert found[0] == {"text": "a 0", "pair": "b", "label": "yes", "id": 0}
    assert found[1]["label"] == "no" and pickle.loads(pickle.dumps(source))[0] == source[0]
    other = TFDS("small_pairs", "train", "text", prepared, fields, ("0", "1"))
    assert {record["label"] for record in other} == {"0", "1"}
    test = TFDS("small_pairs", "test", data_dir=prepared, fields=fields)
    assert test[0]["label"] is None and test.where(0) == "record 0 of small_pairs (test)"
    whole = TFDS("small_pairs", "test", data_dir=prepared, fields="all")[0]
    assert set(whole) == {"first", "second", "label", "idx"} and whole["first"] == b"a 0"
    wrong = TFDS("small_pairs", "test", data_dir=prepared, fields={"text": "idx"})
    with pytest.raises(UserError, match="no text in the field 'idx'; it has"):
        wrong[0]
    with tfds.testing.mock_data(num_examples=2):
        builtin = TFDS("glue/cola", "train", None, None, {"text": "sentence", "label": "label"})
        assert {record["label"] for record in builtin} <= {"acceptable", "unacceptable"}
    missing = TFDS("no_such_pairs", "test", data_dir=prepared, fields=fields)
    with pytest.raises(UserError, match=r"or give its files \(Table\)"):
        missing[0]


@pytest.mark.parametrize(
    "config, fields",
    [
        ("classify", "small_reviews,text=review,label=stars"),
        ("embed", "small_reviews,text=review,pair=title"),
        ("summarize", "small_reviews,source=review,target=title"),
        ("tag", "small_sentences,column=ner"),
        ("answer", "small_questions,length=32,question=8,stride=16"),
    ],
)
def test_configs_take_a_dataset_by_name(config, fields, prepared, tmp_path):
    from lm_research.commands import config_flag
    from lm_research.train import loop
    from tests.test_configs import CONFIGS, files

    knobs = f"tfds={fields},vocab=300"
    for held, counts in [("", (7, 1)), (",split=train[2:],heldout=test", (6, 3))]:
        given = config_flag.loaded(f"{CONFIGS}/finetune/{config}.py:{knobs}{held}")
        files(given.data.source).data_dir = prepared
        if held:
            given.data.heldout.data_dir = prepared
        _, data = loop.prepare(given, tmp_path / f"run{len(held)}")
        counted = "{}_questions" if config == "answer" else "{}_documents"
        assert tuple(data.facts[counted.format(p)] for p in ("train", "heldout")) == counts
        classes = {"classify": ("neg", "pos"), "tag": ("B-X", "O"), "answer": ("start", "end")}
        assert data.classes == classes.get(config, ())
    if config == "classify":
        with pytest.raises(UserError, match="the knob 'tfds' is of another config"):
            config_flag.loaded(f"{CONFIGS}/finetune/instruct.py:{knobs}")


def test_a_config_of_a_dataset_lets_its_place_be_said():
    from lm_research.commands import config_flag
    from tests.test_configs import CONFIGS

    given = config_flag.loaded(f"{CONFIGS}/finetune/choose.py:tfds=ai2_arc/ARC-Easy")
    config_flag.check(given, "data.source.data_dir", "prepared", "")
    config_flag.check(given, "data.heldout.data_dir", "prepared", "")


def test_reads_mocks(prepared):
    with tfds.testing.mock_data(num_examples=3):
        source = TFDS("small_texts", "train", data_dir=prepared)
        assert len(source) == 3 and isinstance(source[0]["text"], str)
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize(
    "name, split, field, message",
    [
        ("small_texts", "test", "text", "small_texts .test. cannot be had: .*Unknown split"),
        ("small_texts", "train", "body", "has no text in the field 'body'; it has 'text'"),
        ("no_such_texts", "train", "text", "no_such_texts .train. cannot be had: .*data_dir"),
    ],
)
def test_says_what_cannot_be_had(prepared, name, split, field, message):
    with pytest.raises(UserError, match=message) as error:
        TFDS(name, split, field, data_dir=prepared)[0]
    assert "\n" not in str(error.value)


def test_fingerprint(prepared):
    train, rest = (TFDS("small_texts", s, data_dir=prepared) for s in ("train", "train[5:]"))
    assert train.fingerprint() == TFDS("small_texts", "train", data_dir=prepared).fingerprint()
    assert train.fingerprint() != rest.fingerprint()
