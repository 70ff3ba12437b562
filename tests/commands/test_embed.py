"""Vectors of texts from the command line, texts found by them, and how they are judged."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from lm_research import mesh, tree
from lm_research.data import Bytes
from lm_research.models import BERT
from lm_research.models.initial import initial
from lm_research.train import restore

CONFIG = Path(__file__).parents[2] / "configs" / "finetune" / "embed.py"
TRUNK = dict(vocab=261, width=16, layers=1, heads=2, dropout=0.0, attention_dropout=0.0)
WORDS = "cat dog bird hill mat tree road lake sun rain".split()
ROWS = "english\tother\n" + "".join(f"the {a} and {b}\t{b} {a}\n" for a in WORDS for b in WORDS[:3])


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A masked model whose weights are drawn at random."""
    path, model = tmp_path_factory.mktemp("bert"), BERT(**TRUNK)
    params = jax.jit(lambda key: tree.unboxed(initial(model, key)))(jax.random.key(3))
    tokenizer = Bytes(("mask", "cls", "sep")).train(())
    with mesh.single():
        section = dict(kind="BERT", **TRUNK)
        restore.save_run(path, restore.Loaded(model, params, tokenizer, section, context=32))
    return path


def test_trained_it_finds_what_belongs_together(bert, command, tmp_path):
    (tmp_path / "pairs.tsv").write_text(ROWS)
    gold = tmp_path / "STS13"
    gold.mkdir()
    (gold / "STS.input.a.txt").write_text("the cat\ta cat\nthe cat\tno dog\nunscored\tpair\n")
    (gold / "STS.gs.a.txt").write_text("5\n1.5\n\n")
    knobs = "text=english,pair=other,length=32,batch=32,epochs=6,peak=3e-3,evaluations=0.5"
    status, out, err = command(
        *("train", f"--config={CONFIG}:{knobs},scored={gold}", f"--workdir={tmp_path / 'run'}"),
        *(f"--config.init={bert}", f"--config.data.source.paths={tmp_path / 'pairs.tsv'}"),
        *("--config.log.tensorboard=False", "--config.data.heldout=0.2"),
    )
    assert status == 0 and "search --checkpoint" in out, err
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    found = {name: value for row in rows for name, value in row.items()}
    assert found["heldout/recall_5"] >= 0.8 and abs(found["STS13/spearman"]) == 1
    checkpoint = f"--checkpoint={tmp_path / 'run'}"

    status, out, err = command("evaluate", checkpoint, "--part=heldout", "--batch=32")
    assert status == 0 and "recall 1: " in out and "spearman" not in out, err

    index, vectors = tmp_path / "index.txt", tmp_path / "vectors.npy"
    index.write_text("".join(f"{b} {a}\n" for a in WORDS for b in WORDS[:3]))
    status, out, err = command("embed", checkpoint, f"--input={index}", f"--out={vectors}")
    assert status == 0 and "[30, 16]" in out, err
    of_index = np.load(vectors)
    np.testing.assert_allclose(np.linalg.norm(of_index, axis=1), 1, rtol=1e-5)
    given = (checkpoint, f"--index={index}", "--query=dog cat", "--count=2")
    status, out, err = command("search", *given)
    [first, second] = [line.split("\t") for line in out.splitlines()]
    assert status == 0 and first == ["1.0000", "2", "dog cat"], err
    cosines = of_index @ of_index[1]
    assert second[1] == str(1 + np.argsort(-cosines)[1])
    np.testing.assert_allclose(float(second[0]), np.sort(cosines)[-2], atol=1e-4)


def test_a_model_that_makes_no_vectors_is_pooled_and_judged(bert, command, tmp_path):
    lines = [f"the {a}\tthe {b}" for a in WORDS for b in WORDS[:3]]
    scores = [len(set(line)) for line in lines]
    sick = tmp_path / "SICK.txt"
    heads = "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment\n"
    sick.write_text(
        heads + "".join(f"{i}\t{a}\t{b}\tX\n" for i, (a, b) in enumerate(zip(lines, scores)))
    )
    status, out, err = command("evaluate", f"--checkpoint={bert}", f"--scored={sick}")
    told = dict(line.split(": ") for line in out.splitlines())
    assert status == 0 and "vectors of a Transformer, got its hidden states" in err, err
    texts, vectors = tmp_path / "texts.txt", tmp_path / "v.npy"
    texts.write_text("".join(f"{text}\n" for line in lines for text in line.split("\t")))
    given = (f"--checkpoint={bert}", f"--input={texts}", f"--output={vectors}")
    assert command("embed", *given)[0] == 0
    found = np.load(vectors).reshape(-1, 2, 16)
    by_hand = np.corrcoef((found[:, 0] * found[:, 1]).sum(1), scores)[0, 1]
    np.testing.assert_allclose(float(told["pearson"]), by_hand, atol=1e-3)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["embed", "--input=no.txt", "--output=v.txt"], "takes the name of a .npy file"),
        (["embed", "--input={}/pairs.tsv", "--output=v.npy"], "pairs.tsv is a table by its name"),
        (["search", "--index=no.txt"], "search takes queries from --query=... or"),
        (["evaluate", "--scored=no"], "there is no file no"),
    ],
)
def test_what_it_cannot_do_is_one_line(bert, command, tmp_path, arguments, words):
    (tmp_path / "pairs.tsv").write_text(ROWS)
    name, *rest = (one.format(tmp_path) for one in arguments)
    status, _, err = command(name, f"--checkpoint={bert}", *rest)
    assert status == 2 and words in err and "Traceback" not in err


def test_microbatches_are_refused(bert, command, tmp_path):
    (tmp_path / "pairs.tsv").write_text(ROWS)
    status, _, err = command(
        *("train", f"--config={CONFIG}:text=english,pair=other", f"--workdir={tmp_path / 'run'}"),
        *(f"--config.data.source.paths={tmp_path / 'pairs.tsv'}", "--config.batch.microbatches=2"),
    )
    assert status == 2 and "each text is compared with all others of its batch" in err
