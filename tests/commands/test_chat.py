"""A conversation on the command line, and what a tuned run takes with it."""

import io
import json

import jax
import numpy as np
import pytest

from lm_research import config, mesh, tree
from lm_research.data import Bytes
from lm_research.data.chat import asked, templated
from lm_research.data.chat_template import ALPACA, CHATML
from lm_research.errors import UserError
from lm_research.infer import generate
from lm_research.infer.talk import Talk
from lm_research.infer.text import Transcript, answer
from lm_research.models.initial import initial
from lm_research.train import restore
from lm_research.train.experiment import CONTENTS

SECTION = dict(kind="GPT2", vocab=259, width=16, layers=1, heads=2, context=128)
SECTION |= dict(tied=True, deviation=1.0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose tokenizer carries ChatML, by its path; its weights are drawn at random."""
    return saved(tmp_path_factory.mktemp("run"), templated(Bytes().train(()), CHATML))


def saved(path, tokenizer):
    """A run that writes letters for the most part."""
    section = {**SECTION, "vocab": tokenizer.vocab}
    model = config.build(section, CONTENTS, "model")
    params = tree.unboxed(jax.jit(lambda key: initial(model, key))(jax.random.key(0)))
    letters = np.isin(np.arange(tokenizer.vocab), [*range(32, 127), *range(256, 259)])
    table = params["embedding"]["table"]
    params["embedding"]["table"] = jax.numpy.where(letters[:, None], table, 0)
    with mesh.single():
        restore.save_run(path, restore.Loaded(model, params, tokenizer, section, (256,), 128))
    return path


def said(text, role="user"):
    return {"role": role, "content": text}


def test_lines_are_answered_with_what_was_said_before(run, command, monkeypatch):
    given = ["chat", f"--checkpoint={run}", "--temperature=0", "--length=6", "--context=110"]
    long = "x" * 100
    lines = ["Hello", "", "You?", "/reset", "Hello", long, "And", "m" * 30, "/quit", "Hello"]
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    status, out, err = command(*given, "--system=Be.")
    with mesh.single():
        loaded = restore.open_checkpoint(run)

        def answered(*messages):
            prompt = asked(loaded.tokenizer, [said("Be.", "system"), *messages])
            [found] = generate(loaded.model, loaded.params, [prompt], length=6, eos=(256, 258))
            transcript = Transcript(loaded.tokenizer, prompt)
            return transcript.add(found.tokens) + transcript.rest()

        first = answered(said("Hello"))
        mine = said(first.strip(), "assistant")
        second = answered(said("Hello"), mine, said("You?"))
        third = answered(said("Hello"), mine, said("And"))
        last = answered(said("And"), said(third.strip(), "assistant"), said("m" * 30))
    assert status == 0, err
    assert out == "".join(f"{text}\n" for text in (first, second, first, third, last))
    assert "room for 104; ask for less" in err
    assert "(1 of the oldest turns forgotten: the context is 110)" in err


def test_the_oldest_turns_are_forgotten_and_the_system_message_is_not():
    tokenizer = templated(Bytes().train(()), ALPACA)
    talk = Talk(tokenizer, "Be.")
    for number in range(3):
        tokens, forgotten = talk.ask(f"{number}" * 20, room=125)
        talk.answered("a" * 10)
        assert forgotten == (number == 2) and tokenizer.decode(tokens).startswith("Be.\n\n### I")
    assert [turn["content"][:1] for turn in talk.turns] == ["1", "a", "2", "a"]
    with pytest.raises(UserError, match="ask for less"):
        talk.ask("x" * 99, room=125)
    assert len(talk.turns) == 4


def test_generate_answers_and_stops_at_texts(run, command):
    given = ["generate", f"--checkpoint={run}", "--greedy", "--length=30", "--prompt=Hello"]
    with mesh.single():
        loaded = restore.open_checkpoint(run)
        assert loaded.eos == (256,)  # as `save_run` was told
        prompt = asked(loaded.tokenizer, [said("Hello")])
        [found] = generate(loaded.model, loaded.params, [prompt], length=30, eos=(256, 258))
        whole = answer(loaded.tokenizer, loaded.model, prompt, found.tokens)
    status, out, _ = command(*given, "--chat", "--nostream")
    assert status == 0 and out == whole + "\n"
    stop = whole[5:8]
    for way in ("--stream", "--nostream"):
        status, out, err = command(*given, "--chat", way, f"--stop={stop}", "--stop=never that")
        assert out == whole[: whole.index(stop)] + "\n", err
    status, _, err = command(*given, "--system=Be.")
    assert status == 2 and "--system is for a conversation: give --chat" in err
    status, _, err = command(*given, "--beams=2", "--stop=a")
    assert status == 2


def test_a_stop_that_has_begun_is_not_shown_before_it_is_clear():
    tokenizer = Bytes().train(())
    transcript = Transcript(tokenizer, b"ab", ["ab!", "zz"])
    shown = [transcript.add([token]) for token in b"caab"]
    assert "".join(shown) == "ca" and not transcript.stopped
    assert transcript.add(b"c") == "abc" and transcript.add(b"ab!d") == ""
    assert transcript.stopped and transcript.rest() == ""


def test_the_template_goes_to_transformers(run, command, tmp_path):
    transformers = pytest.importorskip("transformers", reason="it is the reference: extra `verify`")
    target = tmp_path / "hf"
    assert command("convert", f"--source={run}", f"--target={target}")[0] == 0
    theirs = transformers.AutoTokenizer.from_pretrained(target)
    messages = [said("Be.", "system"), said("Hello")]
    with mesh.single():
        ours = restore.open_checkpoint(target).tokenizer
    want = theirs.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert asked(ours, messages).tolist() == want


def test_what_is_no_chat_is_refused(command, tmp_path):
    bare = saved(tmp_path / "bare", Bytes().train(()))
    for arguments, words in (
        ([], "carries no chat template"),
        (["--template=chatml"], "special tokens that the model lacks (2 of them)"),
        (["--template=other"], "--template is 'other'; it takes chatml, alpaca"),
        (["--top_p=3"], "--top_p is 3.0"),
    ):
        status, _, err = command("chat", f"--checkpoint={bare}", *arguments)
        assert status == 2 and words in err, err


def test_a_larger_vocabulary_begins_with_the_one_that_was(run):
    """New rows are the mean of the others, and without the wish there are none."""
    with mesh.single():
        loaded = restore.open_checkpoint(run)
        assert restore.begun({**SECTION, "vocab": 5}, SECTION)["vocab"] == 259
        section = restore.begun({**SECTION, "vocab": 261, "width": 8}, SECTION)
        assert (section["vocab"], section["width"]) == (261, 16)
        params, told = restore.given(config.build(section, CONTENTS, "model"), loaded)
    [name] = told["grown"]
    before, after = (tree.named_leaves(x)[name] for x in (loaded.params, params))
    assert np.array_equal(after[:259], before)
    np.testing.assert_allclose(after[259:], np.tile(before.mean(0), (2, 1)), rtol=1e-5)
    assert json.dumps(told)
