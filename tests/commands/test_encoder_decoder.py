"""`generate`, `score` and `evaluate` of an encoder-decoder, beside `transformers` itself."""

import json
import math

import numpy as np
import pytest

from lm_research.data import Bytes

torch = pytest.importorskip("torch", reason="the reference is torch's: install the extra `verify`")
transformers = pytest.importorskip("transformers", reason="it is the reference: extra `verify`")

PAIRS = [("a dog", "ein Hund"), ("two cats sat", "zwei Katzen"), ("b", "c")]
END = 256


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A T5 with large weights, and a tokenizer of bytes."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 257, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2}
    sizes["n_positions"] = 512  # which relative positions do not need, and T5's checkpoints say
    special = {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": END}
    settings = transformers.T5Config(**sizes, **special, num_heads=4)
    model = transformers.T5ForConditionalGeneration(settings).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(0, 0.3).add_(float(name.endswith("norm.weight")))
    path = tmp_path_factory.mktemp("t5") / "t5"
    model.save_pretrained(path)
    Bytes().train(()).save(path)
    return model, path


def tokens(text):
    return [*text.encode(), END]


def losses(model, pairs):
    """Of each pair, its target's tokens' negative log-probabilities."""
    found = []
    for source, target in pairs:
        labels = torch.tensor([tokens(target)])
        logits = model(input_ids=torch.tensor([tokens(source)]), labels=labels).logits
        each = torch.nn.functional.cross_entropy(logits[0], labels[0], reduction="none")
        found.append(each.detach().numpy())
    return found


def written(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_prompt_is_read_and_another_text_is_written(command, directory, tmp_path):
    model, path = directory
    lines = [{"text": source} for source, _ in PAIRS] + [{"tokens": [7, 8]}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    arguments = ["generate", f"--checkpoint={path}", "--greedy", "--length=12"]
    files = [f"--input={tmp_path / 'in.jsonl'}", f"--output={tmp_path / 'out.jsonl'}"]
    assert command(*arguments, *files)[0] == 0
    found = written(tmp_path / "out.jsonl")
    prompts = [*(tokens(source) for source, _ in PAIRS), [7, 8]]
    assert [row["prompt_tokens"] for row in found] == prompts
    for row, prompt in zip(found, prompts, strict=True):
        given = torch.tensor([prompt])
        want = model.generate(
            given, attention_mask=torch.ones_like(given), do_sample=False, max_new_tokens=12
        )
        assert row["tokens"] == [token for token in want[0, 1:].tolist() if token != END]
        assert row["text"] == bytes(row["tokens"]).decode(errors="replace")
    for more in ([], ["--stream"]):
        status, out, _ = command(*arguments, "--prompt=a dog", *more)
        assert status == 0 and out.rstrip("\n") == found[0]["text"]
    status, _, err = command(*arguments)
    assert status == 2 and "there is nothing to read" in err


def test_a_tag_comes_before_and_long_sources_are_cut_as_in_training(command, directory, tmp_path):
    _, path = directory
    (tmp_path / "in.txt").write_text(f"a dog\n\n{'a dog and ' * 60}\n")
    arguments = ["generate", f"--checkpoint={path}", "--greedy", "--length=2", "--tag=<2de>"]
    files = [f"--input={tmp_path / 'in.txt'}", f"--output={tmp_path / 'out.jsonl'}"]
    status, _, said = command(*arguments, *files)
    assert status == 0 and "1 of 3 texts, longer than 512 tokens" in said
    assert "the tag <2de>" in said and "5 tokens that spell it" in said
    tagged, blank, long = [row["prompt_tokens"] for row in written(tmp_path / "out.jsonl")]
    assert tagged == tokens("<2de> a dog") and blank == tokens("")
    assert long == tokens(f"<2de> {'a dog and ' * 60}"[:511])


def test_scores_are_those_of_transformers(command, directory, tmp_path):
    model, path = directory
    lines = [{"source": source, "text": target} for source, target in PAIRS]
    lines.append({"source": tokens("x"), "tokens": tokens("yz")})
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    files = [f"--input={tmp_path / 'in.jsonl'}", f"--output={tmp_path / 'out.jsonl'}"]
    assert command("score", f"--checkpoint={path}", *files)[0] == 0
    expected = losses(model, [*PAIRS, ("x", "yz")])
    for row, each in zip(written(tmp_path / "out.jsonl"), expected, strict=True):
        np.testing.assert_allclose(row["logprobs"], -each, rtol=1e-3, atol=1e-3)
        assert math.isclose(row["sum"], -each.sum(), rel_tol=1e-4)
    (tmp_path / "in.jsonl").write_text('{"text": "alone"}\n')
    status, _, err = command("score", f"--checkpoint={path}", *files)
    assert status == 2 and "in.jsonl:1 has no source" in err


def test_pairs_are_evaluated(command, directory, tmp_path):
    model, path = directory
    (tmp_path / "pairs.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in PAIRS))
    arguments = [f"--checkpoint={path}", f"--paths={tmp_path / 'pairs.tsv'}", "--length=16"]
    status, out, _ = command("evaluate", *arguments, "--batch=2")
    assert status == 0
    found = dict(line.split(": ") for line in out.splitlines())
    total = sum(each.sum() for each in losses(model, PAIRS))
    count, size = (sum(len(f(target)) for _, target in PAIRS) for f in (tokens, str.encode))
    assert float(found["loss"]) == pytest.approx(total / count, abs=1e-3)
    assert float(found["bits per byte"]) == pytest.approx(total / size / math.log(2), abs=1e-3)


def test_a_file_is_translated_line_by_line_by_beam_search(command, directory, tmp_path):
    model, path = directory
    (tmp_path / "in.en").write_text("a dog\n\nb\n")
    arguments = ["generate", f"--checkpoint={path}", "--length=6", f"--input={tmp_path / 'in.en'}"]
    beam = ["--beams=3", "--length_penalty=0.5", "--early_stopping=true"]
    assert command(*arguments, *beam, f"--output={tmp_path / 'out.jsonl'}")[0] == 0
    rows = written(tmp_path / "out.jsonl")
    for row, source in zip(rows, ["a dog", "", "b"], strict=True):
        found = model.generate(
            torch.tensor([tokens(source)]),
            num_beams=3,
            length_penalty=0.5,
            early_stopping=True,
            do_sample=False,
            max_new_tokens=6,
            return_dict_in_generate=True,
            output_scores=True,
        )
        assert row["tokens"] == [t for t in found.sequences[0, 1:].tolist() if t not in (0, END)]
        assert row["score"] == pytest.approx(float(found.sequences_scores[0]), abs=1e-3)
    assert command(*arguments, *beam, f"--output={tmp_path / 'out.de'}")[0] == 0
    texts = (tmp_path / "out.de").read_text().splitlines()
    assert texts == [" ".join(rows[0]["text"].split()), "", " ".join(rows[2]["text"].split())]
    for wrong, words in (
        (["--beams=2", "--top_k=3"], "--top_k is for drawing tokens"),
        (["--length_penalty=2"], "--length_penalty is for beam search: give --beams"),
    ):
        status, _, err = command(*arguments, *wrong)
        assert status == 2 and words in err


def test_texts_are_written_from_pairs_and_judged(command, directory, tmp_path):
    _, path = directory
    sacrebleu = pytest.importorskip("sacrebleu", reason="it is the metric: extra `tasks`")
    (tmp_path / "pairs.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in PAIRS))
    arguments = [f"--checkpoint={path}", f"--paths={tmp_path / 'pairs.tsv'}", "--length=16"]
    judged = ["--metrics=chrf", "--beams=1", "--limit=2", f"--output={tmp_path / 'out.de'}"]
    status, out, _ = command("evaluate", *arguments, *judged)
    texts = (tmp_path / "out.de").read_text().split("\n")[:-1]
    assert status == 0 and len(texts) == 2
    want = sacrebleu.corpus_chrf(texts, [[target for _, target in PAIRS[:2]]])
    assert f"chrf: {want.score:.4f}" in out and "chrf by nrefs:1|case:mixed" in out
    status, _, err = command("evaluate", *arguments, "--limit=2")
    assert status == 2 and "--limit is for texts to be written" in err
    status, _, err = command("evaluate", *arguments, "--metrics=blue")
    assert status == 2 and "--metrics has 'blue'; it takes some of bleu, chrf, rouge" in err
