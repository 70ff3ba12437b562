"""`generate`, `score` and `evaluate` on Hugging Face directories, beside `transformers` itself."""

import io
import json
import math

import numpy as np
import pytest

from lm_research import mesh
from lm_research.data import Bytes
from lm_research.infer import generate
from lm_research.train.restore import open_checkpoint

torch = pytest.importorskip("torch", reason="the reference is torch's: install the extra `verify`")
transformers = pytest.importorskip("transformers", reason="it is the reference: extra `verify`")

SIZES = {"vocab_size": 257, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 48}
PROMPTS = ["To be, or", "a"]


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    """A GPT-2 with large weights: with a tokenizer of bytes, and without any."""
    torch.manual_seed(0)
    settings = transformers.GPT2Config(
        **SIZES, initializer_range=0.3, bos_token_id=256, eos_token_id=256
    )
    model = transformers.GPT2LMHeadModel(settings).eval()
    found = {}
    for name in ("text", "ids"):
        found[name] = tmp_path_factory.mktemp(name) / "gpt2"
        model.save_pretrained(found[name])
    Bytes().train(()).save(found["text"])
    return model, found["text"], found["ids"]


def theirs(model, prompt, length, **more):
    given = torch.tensor([list(prompt)])
    found = model.generate(
        given,
        attention_mask=torch.ones_like(given),
        do_sample=False,
        max_new_tokens=length,
        pad_token_id=0,
        **more,
    )
    return found[0, given.shape[1] :].tolist()


def written(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def refused(result, *parts):
    status, out, err = result
    lines = err.splitlines()
    assert status == 2 and not out and len(lines) == 1, result
    assert lines[0].startswith("lm_research: ") and all(part in lines[0] for part in parts), lines


def test_greedy_tokens_are_those_of_transformers(command, directories, tmp_path):
    model, text, _ = directories
    lines = [{"text": prompt} for prompt in PROMPTS] + [{"tokens": [7, 8, 9]}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    arguments = ["generate", f"--checkpoint={text}", "--greedy", "--length=20"]
    files = [f"--input={tmp_path / 'in.jsonl'}", f"--output={tmp_path / 'out.jsonl'}"]
    assert command(*arguments, *files)[0] == 0
    found = written(tmp_path / "out.jsonl")
    prompts = [*(prompt.encode() for prompt in PROMPTS), [7, 8, 9]]
    assert [row["prompt_tokens"] for row in found] == [list(prompt) for prompt in prompts]
    for row, prompt in zip(found, prompts, strict=True):
        want = theirs(model, prompt, 20)
        assert row["tokens"] == [token for token in want if token != 256]
        assert row["ended"] == (256 in want) and len(row["logprobs"]) == len(row["tokens"])


def test_nothing_is_repeated_as_by_transformers(command, directories):
    model, text, _ = directories
    given = ["generate", f"--checkpoint={text}", "--length=20", "--prompt=a cat a", "--greedy"]
    held = ["--repetition_penalty=1.4", "--no_repeat=2"]
    want = theirs(model, b"a cat a", 20, repetition_penalty=1.4, no_repeat_ngram_size=2)
    kept = bytes(token for token in want if token != 256).decode(errors="replace")
    status, out, _ = command(*given, *held, "--nostream")
    assert status == 0 and out == f"a cat a{kept}\n" != command(*given, "--nostream")[1]


def test_the_end_of_a_text_is_the_directory_s(command, directories, tmp_path):
    """Without a tokenizer too, and any of several."""
    model, _, ids = directories
    free = theirs(model, [1, 2, 3], 20)
    ends = [free[9], free[6]]
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in ids.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    (copy / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    arguments = ["--greedy", "--length=20", "--prompt=1 2 3"]
    status, out, _ = command("generate", f"--checkpoint={copy}", *arguments)
    want = theirs(model, [1, 2, 3], 20, eos_token_id=ends)
    assert status == 0 and out.split() == [str(token) for token in [1, 2, 3, *want[:-1]]]


def test_streamed_text_is_the_text(command, directories):
    _, text, _ = directories
    arguments = ["generate", f"--checkpoint={text}", "--prompt=To be", "--length=30", "--seed=5"]
    plain = command(*arguments, "--nostream")[1]
    assert command(*arguments, "--stream")[1] == plain and plain.startswith("To be")
    assert command(*arguments[:-1], "--seed=6", "--nostream")[1] != plain
    assert command(*arguments, "--nostream", "--top_k=1")[1] == command(*arguments, "--greedy")[1]


def test_prompts_from_standard_input(command, directories, monkeypatch):
    _, text, _ = directories
    monkeypatch.setattr("sys.stdin", io.StringIO("one\ntwo\n"))
    status, out, _ = command(
        "generate", f"--checkpoint={text}", "--input=-", "--length=3", "--samples=2"
    )
    heads = [line for line in out.splitlines() if line.startswith("---")]
    assert status == 0 and len(heads) == 4 and heads[3] == "--- prompt 2, sample 2"
    assert out.count("one") == 2 and out.count("two") == 2


def test_scores_are_the_chain_rule(command, directories, tmp_path):
    model, text, _ = directories
    lines = [{"text": "To be, or not"}, {"tokens": [5, 256, 7]}, {"text": "x"}, {"text": ""}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    files = [f"--input={tmp_path / 'in.jsonl'}", f"--output={tmp_path / 'out.jsonl'}"]
    assert command("score", f"--checkpoint={text}", *files)[0] == 0
    found = written(tmp_path / "out.jsonl")
    tokens = [list(b"To be, or not"), [5, 256, 7], list(b"x"), []]
    assert [row["tokens"] for row in found] == tokens
    assert found[2] == {"tokens": tokens[2], "logprobs": [None], "sum": 0}
    assert found[3] == {"tokens": [], "logprobs": [], "sum": 0}
    for row in found[:2]:
        with torch.no_grad():
            scores = model(torch.tensor([row["tokens"]])).logits.log_softmax(-1)[0]
        want = [scores[i, token].item() for i, token in enumerate(row["tokens"][1:])]
        assert row["logprobs"][0] is None
        np.testing.assert_allclose(row["logprobs"][1:], want, atol=2e-5)
        np.testing.assert_allclose(row["sum"], sum(want), atol=1e-4)


def test_evaluate_is_the_mean_over_windows(command, directories, tmp_path):
    model, text, _ = directories
    content = "The cat sat. A bird flew over it, and over me."
    (tmp_path / "text.txt").write_text(content)
    arguments = ["evaluate", f"--checkpoint={text}", f"--paths={tmp_path / 'text.txt'}"]
    status, out, _ = command(*arguments, "--length=16")
    numbers = dict(line.split(": ") for line in out.splitlines())
    tokens = [256, *content.encode(), 256]
    starts = range(0, len(tokens) - 1, 16)
    with torch.no_grad():
        pieces = [torch.tensor([tokens[i : i + 17]]) for i in starts]
        losses = [
            torch.nn.functional.cross_entropy(
                model(piece[:, :-1]).logits[0], piece[0, 1:], reduction="sum"
            ).item()
            for piece in pieces
        ]
    mean = sum(losses) / (len(tokens) - 1)
    assert status == 0 and float(numbers["loss"]) == pytest.approx(mean, abs=2e-4)
    assert float(numbers["perplexity"]) == pytest.approx(math.exp(mean), rel=1e-3)
    bits = sum(losses) / len(content) / math.log(2)
    assert float(numbers["bits per byte"]) == pytest.approx(bits, rel=1e-3)


def test_lines_are_json_lines(command, directories, tmp_path):
    """With a byte order mark, blank lines, and characters in a string that end lines elsewhere."""
    path = tmp_path / "in.jsonl"
    path.write_text('\ufeff{"text": "a\u2028b"}\n\n{"tokens": [1, 2]}\n', "utf-8")
    output = f"--output={tmp_path / 'out.jsonl'}"
    assert command("score", f"--checkpoint={directories[1]}", f"--input={path}", output)[0] == 0
    first, second = written(tmp_path / "out.jsonl")
    assert first["tokens"] == list("a\u2028b".encode()) and second["tokens"] == [1, 2]


def test_what_is_refused(command, directories, tmp_path):
    _, text, ids = directories
    generate = ("generate", f"--checkpoint={text}")
    refused(command("generate", f"--checkpoint={tmp_path / 'none'}"), "none is not a directory")
    long = f"--prompt={'a' * 40}"
    refused(command(*generate, long), "number 1", "40 tokens", "140", "context is 48")
    refused(command(*generate, "--temperature=-1"), "temperature is -1.0", "from 0 on")
    refused(command(*generate, "--top_p=2"), "top_p is 2.0", "(0, 1]")
    refused(command(*generate, "--greedy", "--temperature=1"), "give one of them")
    refused(command(*generate, "--length=many"), "--length=many")
    refused(command("generate", f"--checkpoint={ids}", "--prompt=To be"), "no tokenizer", "'1 2 3'")
    refused(command("generate", f"--checkpoint={ids}", "--prompt=300"), "token 300", "0 to 256")
    copy = tmp_path / "text.txt"
    copy.write_text("a" * 200)
    evaluate = ("evaluate", f"--checkpoint={text}", "--length=64", f"--paths={copy}")
    refused(command(*evaluate), "--length=64", "context is 48")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "config.json").write_text('{"foo": 1}')
    refused(command("generate", f"--checkpoint={tmp_path / 'odd'}"), "neither a run's nor")
    for content, parts in (
        ("", ["is empty"]),
        ('{"text": 3}\n', ["lines.jsonl:1", "no string"]),
        ('{"text": "a"}\nno\n', ["lines.jsonl:2", "not JSON"]),
        ('{"text": "\\ud800"}\n', ["lines.jsonl:1", "not Unicode"]),
        ('{"txt": "a"}\n', ["lines.jsonl:1", '{"text": "..."}']),
        (json.dumps({"text": "a" * 50}) + "\n", ["lines.jsonl:1", "50 tokens", "context is 48"]),
    ):
        (tmp_path / "lines.jsonl").write_text(content)
        files = (f"--input={tmp_path / 'lines.jsonl'}", f"--output={tmp_path / 'out.jsonl'}")
        refused(command("score", f"--checkpoint={text}", *files), *parts)
        assert not (tmp_path / "out.jsonl").exists()


def test_a_run_of_prefixes_is_continued_from_prefixes(tiny, command, tmp_path):
    fields = ["--config.objective.kind=Prefix", "--config.optimizer.peak=0.1"]
    status, _, err = tiny("steps=8,every=8", *fields, "--config.log.samples.every=0")
    assert status == 0, err
    run = f"--checkpoint={tmp_path / 'run'}"
    asked = ["--prompt=the cat", "--greedy", "--length=8", "--nostream"]
    _, both_ways, _ = command("generate", run, *asked)
    with mesh.single():
        loaded = open_checkpoint(tmp_path / "run")
        prompt = loaded.tokenizer.prompt("the cat")
        [found] = generate(loaded.model, loaded.params, [prompt], length=8, prefix=True)
    assert loaded.prefix and loaded.tokenizer.decode(found.tokens) in both_ways
    target = tmp_path / "causal"
    status, _, err = command("convert", f"--source={tmp_path / 'run'}", f"--target={target}")
    assert status == 0 and "prompts whose tokens see each other" in err
