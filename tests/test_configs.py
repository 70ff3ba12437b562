"""Every file in configs/, shrunk by its knobs and fields, trains, resumes, and is of use."""

import json
import os
import re
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
from variants import tried

from lm_research import mesh
from lm_research.commands import config_flag
from lm_research.data import glue
from lm_research.errors import UserError
from lm_research.infer import generate, score
from lm_research.infer.answer import answer
from lm_research.infer.choose import choose
from lm_research.infer.classify import classify
from lm_research.infer.embed import embed
from lm_research.infer.tag import tag
from lm_research.models import TextEmbedder, gemma, gpt_neox, llama, mixtral, olmo2, opt, phi3, t5
from lm_research.models.sizes import SIZED
from lm_research.train import loop
from lm_research.train.duration import timed
from lm_research.train.restore import open_checkpoint

CONFIGS = Path(__file__).parents[1] / "configs"

# Knobs, and fields that no knob reaches; of one file perhaps several, told apart after a colon.
TINY = {f"model.{n}": size for n, size in dict(width=16, layers=2, heads=2, hidden=16).items()}
TINY |= {"data.heldout": 0.2}
HEAD = "width=16,layers=1,heads=2,vocab=261,batch=8"
SHRUNK = {
    "bert": (
        "vocab=261,width=16,layers=1,heads=2,length=16,batch=8,steps=4,source=text,pairs=next",
        {"data.heldout": 0.2},
    ),
    "decoder:mixtral": (
        "size=mixtral-8x7b,objective=middle,vocab=260,length=16,batch=8,steps=4,source=text",
        {**TINY, "model.kv_heads": 1, "model.head": 8, "model.experts": 4},
    ),
    "electra": (
        "vocab=261,width=16,layers=1,heads=2,length=16,batch=8,steps=4,source=text",
        {"data.heldout": 0.2},
    ),
    "fasttext": (
        "width=4,order=2,least=2,most=3,buckets=50,length=64,batch=8,steps=4",
        {"data.heldout": 0.2},
    ),
    "finetune/answer": (
        f"{HEAD},length=32,question=8,stride=16,longest=8,epochs=1",
        {"data.heldout": 0.2},
    ),
    "finetune/classify": (
        "width=16,layers=1,heads=2,vocab=261,length=16,batch=8,epochs=1",
        {"data.heldout": 0.2},
    ),
    "finetune/classify:t5": (f"family=t5,{HEAD},length=16,epochs=0.8", {"data.heldout": 0.2}),
    "finetune/choose": (f"{HEAD},length=16,epochs=1", {"data.heldout": 0.2}),
    "finetune/data_to_text": (
        "width=16,layers=1,vocab=257,length=24,batch=8,epochs=0.88",
        {"evals.written.limit": 2},
    ),
    "finetune/embed": (
        f"{HEAD},length=16,epochs=1,pair=label",
        {"data.heldout": 0.2, "evals.heldout.nearest": (1, 2)},
    ),
    "finetune/summarize": (
        "width=16,layers=1,vocab=257,length=24,new=8,batch=8,epochs=0.88",
        {"evals.written.limit": 2},
    ),
    "finetune/glue": (
        "task=sst2,text=text,path=.,width=16,layers=1,heads=2,vocab=261,length=16,batch=8,"
        "epochs=0.8,peak=5e-5",  # the program of finetune/classify, which need not be compiled anew
        {"data.classes": ("no", "yes")},
    ),
    "finetune/instruct": (
        f"family=llama,{HEAD},length=32,new=4,limit=2,epochs=1,template=chatml",
        {"model.hidden": 16, "data.heldout": 0.2},
    ),
    "finetune/tag": (f"{HEAD},length=16,epochs=1,column=-1", {"data.heldout": 0.2}),
    "gpt2_small": (
        "width=16,layers=1,heads=2,length=16,batch=8,steps=4,source=text",
        {"data.tokenizer.vocab": 257, "data.heldout": 0.2},
    ),
    "mamba2": ("vocab=257,width=16,layers=2,every=2,length=16,batch=8,steps=4", {}),
    "pretrain": (
        "family=bert,width=16,layers=1,heads=2,vocab=400,length=16,batch=8,steps=4",
        {"data.heldout": 0.2},
    ),
    "quickstart": ("vocab=257,width=16,layers=1,length=16,batch=8,steps=4", {}),
    "t5": (
        "vocab=512,width=16,layers=1,length=24,batch=8,steps=4",
        {"model.heads": 2, "model.head": 8, "data.heldout": 0.2},
    ),
    "translation": (
        "family=mbart,size=large,vocab=257,width=16,layers=1,heads=2,length=24,batch=8,steps=4",
        {},
    ),
    "shakespeare_char": ("width=16,layers=1,length=16,batch=8,steps=4,dispatch=1", {}),
    "xlnet": ("vocab=257,width=16,layers=1,heads=2,length=16,batch=8,steps=4", {}),
}
# Those of which others here, or tests of the objective, have the data, the objective and the model.
ALIKE = "finetune/classify:t5", "finetune/glue", "finetune/summarize", "gpt2_small", "pretrain"
ALIKE += "decoder:mixtral", "electra", "finetune/choose", "finetune/embed", "mamba2", "xlnet"
RESUMED = "quickstart", "finetune/classify", "translation"  # whose states are unlike
FIELDS = {"log.tensorboard": False, "log.samples.every": 0}
# A run of four steps stops after two of them and at the end, and saves there.
FIELDS |= {"checkpoint.every": 4, "evals.heldout.every": 4, "batch.steps_per_dispatch": 1}

DECODERS = [
    size for family in (gemma, gpt_neox, llama, mixtral, olmo2, opt, phi3) for size in family.SIZES
]
PRETRAINED = [f"pretrain.py:family={family}" for family in SIZED]


def shrunk(name, directory):
    knobs, fields = SHRUNK[name]
    config = config_flag.loaded(f"{CONFIGS / name.partition(':')[0]}.py:{knobs}")
    config.update_from_flattened_dict({**FIELDS, **fields})
    text = str(directory / "text.txt")
    (directory / "text.txt").write_text("The cat sat. A bird flew over it, and over me.\n" * 40)
    (directory / "table.tsv").write_text("text\tlabel\n" + "good\tyes\nbad and so\tno\n" * 20)
    (directory / "words.conll").write_text("A B-X\ncat I-X\nsat O\n\n" * 40)
    context, answer = "The cat sat on the mat, and slept.", {"text": "cat", "answer_start": 4}
    asked = [{"id": str(i), "question": "Who?", "answers": [answer]} for i in range(20)]
    contexts = [{"context": f"{context} {q['id']}", "qas": [q]} for q in asked]
    (directory / "squad.json").write_text(json.dumps({"data": [{"paragraphs": contexts}]}))
    (directory / "arc.csv").write_text("Who sat?,a cat,a mat,A\nWho?,a,b,me,,C\n" * 20)
    rows = [{"instruction": f"Who? {i}", "output": "The cat."} for i in range(40)]
    (directory / "rows.json").write_text(json.dumps(rows))
    names = {
        "Choices": "arc.csv",
        "Instruct": "rows.json",
        "Labelled": "table.tsv",
        "LabelledWords": "words.conll",
        "Questions": "squad.json",
        "Related": "table.tsv",
    }
    paths = {kind: str(directory / name) for kind, name in names.items()}
    paths["Parallel"] = f"{text},{text}"
    files(config.data.source).paths = paths.get(config.data.kind, text)
    if name == "finetune/glue":
        config.data.heldout.paths = config.data.source.paths
    return config


def files(source):
    """The section that takes files: the source's own, or of the first that it is made of."""
    return source.source if source.kind == "EachTarget" else source


def test_every_config_is_here():
    found = {str(path.relative_to(CONFIGS).with_suffix("")) for path in CONFIGS.rglob("*.py")}
    assert found == {name.partition(":")[0] for name in SHRUNK}


@pytest.mark.parametrize("name", [name for name in SHRUNK if ":" not in name])
def test_where_a_run_begins_may_be_said_on_the_command_line(name):
    """As may other fields that a file leaves open: they keep the types that they take."""
    assert config_flag.loaded(f"{CONFIGS / name}.py:{SHRUNK[name][0]}").get_type("init") is str


def trained(name, directory, monkeypatch):
    """A run's directory; of some configs it is stopped once, and goes on."""
    workdir, draws, draw = directory / "run", [], loop.draw

    def stopping(*arguments):
        draws.append(arguments)
        if len(draws) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return draw(*arguments)

    config = shrunk(name, directory)
    if name in RESUMED:
        monkeypatch.setattr(loop, "draw", stopping)
        assert loop.train(config, workdir) == loop.RESUME and len(draws) == 2
    assert loop.train(config, workdir) == 0
    assert len(draws) == (4 if name in RESUMED else 0)  # the third step and the fourth
    return workdir


@pytest.mark.parametrize("name", tried(SHRUNK, [name for name in SHRUNK if name not in ALIKE]))
def test_trains_and_generates_scores_or_classifies(name, tmp_path, monkeypatch):
    workdir = trained(name, tmp_path, monkeypatch)
    with mesh.single():
        loaded = open_checkpoint(workdir)
        prompt = loaded.tokenizer.prompt("The cat")
        if getattr(loaded.model, "pool", None) == "each":
            given = loaded.model, loaded.params, loaded.tokenizer
            if loaded.model.classes == ("start", "end"):
                [told] = answer(*given, [("Who?", "The cat sat.")], 32, question=8)
                assert told.text in "The cat sat." and 0 < told.none < 1
            else:
                [[(label, chance)]] = tag(*given, [["cat"]])
                assert label in loaded.model.classes and 1 / 3 <= chance <= 1
        elif getattr(loaded.model, "classes", None) == ("choice",):
            question = dict(question="Who?", choices=["a cat", "me", "nobody"])
            [told] = choose(loaded.model, loaded.params, loaded.tokenizer, [question])
            assert told.shape == (3,) and np.isclose(told.sum(), 1)
        elif getattr(loaded.model, "classes", None):
            assert np.allclose(classify(loaded.model, loaded.params, [prompt]).sum(), 1)
        elif isinstance(loaded.model, TextEmbedder):
            assert np.allclose(np.linalg.norm(embed(loaded.model, loaded.params, [prompt])), 1)
        elif getattr(loaded.model, "continues", True):
            [result] = generate(loaded.model, loaded.params, [prompt], length=4)
            assert len(result.tokens) == 4
        else:
            [result] = score(loaded.model, loaded.params, [prompt], tokenizer=loaded.tokenizer)
            assert result["sum"] < 0
    assert loaded.step == 4
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(loaded.params))


@pytest.mark.parametrize(
    "argument",
    [
        "quickstart",
        "fasttext",
        "finetune/classify",
        "finetune/classify.py:family=gpt2,size=small",
        *(f"finetune/glue.py:task={task},path=." for task in glue.TASKS if task != "ax"),
        "finetune/glue.py:task=mnli",
        *(f"finetune/classify.py:family={family},size=base" for family in ("t5", "bart")),
        "finetune/choose",
        "finetune/choose.py:heldout=dev.csv,test=test.csv,flawed=true,family=gpt2",
        "finetune/choose.py:tfds=ai2_arc/ARC-Easy",
        "finetune/classify.py:weights=last,count=0",
        "finetune/classify.py:weights=lora,layerwise=0.9",
        "finetune/embed",
        "finetune/embed.py:pair=answer,negative=other,heldout=dev.tsv,pool=first",
        "finetune/embed.py:scored=STS-B/sts-dev.csv.gz+STS12-en-test",
        "finetune/answer",
        "finetune/answer.py:heldout=dev.json,length=512",
        "finetune/instruct",
        "finetune/instruct.py:weights=lora,heldout=dev.jsonl,template=own",
        "finetune/tag",
        "finetune/tag.py:heldout=dev.conllu,test=test.conllu,column=xpos",
        "finetune/data_to_text",
        "finetune/data_to_text.py:corpus=webnlg.tar.gz",
        "finetune/summarize",
        *(f"gpt2_small.py:size={size}" for size in ("small", "medium", "large", "xl")),
    ]
    + [f"mamba2.py:size={size}" for size in ("tiny", "130m", "370m", "780m", "1.3b", "2.7b")]
    + [f"xlnet.py:size={size}" for size in ("tiny", "base", "large")]
    + [f"shakespeare_char.py:run={run}" for run in ("cpu", "gpu")]
    + [f"decoder.py:size={size}" for size in DECODERS]
    + [f"bert.py:size={size}" for size in ("tiny", "mini", "small", "medium", "base", "large")]
    + [f"bert.py:family=roberta,size={size},unit=span" for size in ("base", "large")]
    + ["bert.py:family=distilbert,unit=word"]
    + [f"bert.py:family=modernbert,size={size},length=1024" for size in ("base", "large")]
    + [f"electra.py:size={size}" for size in ("small", "base", "large")]
    + PRETRAINED
    + [f"t5.py:size={size}" for size in t5.SIZES]
    + [f"t5.py:version=1.0,size={size},objective=denoisers" for size in t5.FIRST_SIZES]
    + ["t5.py:objective=seq2seq,length=128"]
    + [f"translation.py:size={size}" for size in ("base", "big", "small")]
    + [f"translation.py:size=small,corpus=.,pairs={pairs}" for pairs in ("en-de", "en-de+en-fr")]
    + [f"translation.py:family=bart,size={size}" for size in ("base", "large")]
    + ["translation.py:family=mbart,size=large", "translation.py:family=marian"]
    + [
        f"bert.py:family=albert,size={size},pairs=order"
        for size in ("base", "large", "xlarge", "xxlarge")
    ],
)
def test_as_published_is_an_experiment(argument):
    """Unshrunk: every value is one that the sections take, and samples fit into the context."""
    from lm_research.data import Bytes
    from lm_research.train.experiment import completed, experiment
    from lm_research.train.journal import check_samples

    config = config_flag.loaded(str(CONFIGS / argument) + ("" if ":" in argument else ".py"))
    own = "Parallel", "Instruct", "Labelled", "LabelledWords", "Questions", "Choices", "Related"
    if config.data.kind in own and config.data.source.kind != "TFDS" and "corpus" not in argument:
        files(config.data.source).paths = "pairs.tsv"  # the user's own
    given = timed(completed(config), config.steps or 1000)
    x = experiment({**given, "model": loop.with_told(given["model"], vocab=257)})
    check_samples(x, Bytes().train(()))


def test_the_knob_embedding_holds_that_table_and_no_other():
    config = config_flag.loaded(f"{CONFIGS}/finetune/classify.py:weights=embedding,family=bert")
    table = re.compile(config.weights.held)
    assert table.search("embedding/table") and table.search("trunk/embedding/table")
    assert not table.search("trunk/type_embedding/table")


@pytest.mark.parametrize(
    "knobs, words",
    [
        ("classify.py:epochs=0", "the knob 'epochs' is 0; it takes a number above 0"),
        ("classify.py:evaluations=-1", "the knob 'evaluations' is -1; it takes a number above 0"),
        ("embed.py:negative=other", "the knob 'negative' is given and 'pair' is not"),
    ],
)
def test_knobs_that_mean_nothing_are_refused(knobs, words):
    with pytest.raises(UserError, match=words):
        config_flag.loaded(f"{CONFIGS}/finetune/{knobs}")


def test_a_pool_by_its_knob():
    for knobs, pool in (("", None), ("pool=mean", "mean"), ("family=gpt2,pool=mean", "mean")):
        config = config_flag.loaded(f"{CONFIGS}/finetune/classify.py:{knobs}")
        assert config.model.pool == pool


def test_shakespeare_is_split_as_nanogpt_splits_it(tmp_path):
    """65 characters; the first 1,003,854 train, the last 111,540 are held out."""
    if "LM_RESEARCH_DATA" not in os.environ:
        pytest.skip("LM_RESEARCH_DATA, under which tinyshakespeare/input.txt.gz lies, is not set")
    config = config_flag.loaded(str(CONFIGS / "shakespeare_char.py"))
    text = Path(os.environ["LM_RESEARCH_DATA"]) / "tinyshakespeare" / "input.txt.gz"
    config.data.source.paths = str(text)
    _, data = loop.prepare(config, tmp_path / "run")
    assert data.facts["vocab"] == 65
    # The first token of each part is not predicted.
    assert data.facts["train_tokens"] == 1_003_853 and data.facts["heldout_tokens"] == 111_539
    assert data.tokenizer.decode(data.train[0]["tokens"][:14]) == "First Citizen:"


def test_none_replaces_a_default_that_is_not_none():
    from lm_research.train.experiment import completed, experiment

    config = config_flag.loaded(str(CONFIGS / "quickstart.py"))
    config.optimizer.clip = None
    config.log.samples.top_p = None
    given = completed(config)
    x = experiment({**given, "model": {"vocab": 257, **given["model"]}})
    assert (
        x.optimizer.clip is None
        and x.log.samples.top_p is None
        and x.evals["heldout"].batch is None
    )
