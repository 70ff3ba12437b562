import gzip
import json
import pickle

import pytest

from lm_research.data import Documents, PythonDocs, TextFiles
from lm_research.errors import UserError


def texts(source):
    return [record["text"] for record in source]


def lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


def test_every_kind_of_file(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\n\xc3\xa9\n")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"two"))
    (tmp_path / "c.jsonl").write_text(lines({"text": "three"}) + "\n" + lines({"text": "four"}))
    more = tmp_path / "more"
    more.mkdir()
    (more / "d.jsonl.gz").write_bytes(
        gzip.compress(lines(*[{"text": str(i)} for i in range(9)]).encode())
    )
    (more / "notes.md").write_text("not read")
    expected = ["one\r\né\n", "two", "three", "four", *"012345678"]
    source = TextFiles(str(tmp_path))
    assert texts(source) == expected
    assert [source[i]["text"] for i in reversed(range(len(source)))] == expected[::-1]
    assert texts(pickle.loads(pickle.dumps(source))) == expected
    assert texts(TextFiles(f"{tmp_path}/c.jsonl, {tmp_path}/b*")) == ["three", "four", "two"]
    assert texts(TextFiles((f"{tmp_path}/**/*.gz",))) == ["two", *"012345678"]


def test_separator_and_field(tmp_path):
    (tmp_path / "a.txt").write_text("one\n---\ntwo\n---\n\n---\nthree")
    (tmp_path / "b.jsonl").write_text(lines({"body": "four", "n": 1}))
    assert texts(TextFiles(str(tmp_path / "a.txt"), separator="\n---\n")) == ["one", "two", "three"]
    assert texts(TextFiles(str(tmp_path / "b.jsonl"), field="body")) == ["four"]


def test_fingerprint_changes_with_a_file(tmp_path):
    (tmp_path / "a.txt").write_text("one")
    before = TextFiles(str(tmp_path)).fingerprint()
    assert TextFiles(str(tmp_path)).fingerprint() == before
    (tmp_path / "a.txt").write_text("three")
    assert TextFiles(str(tmp_path)).fingerprint() != before


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.txt", b"", r"a\.txt is empty"),
        ("a.txt", b" \n", r"a\.txt is empty"),
        ("a.txt", b"caf\xe9 noir", r"a\.txt is not UTF-8: byte 0xe9 at offset 3"),
        ("a.txt", b"ab\0c", r"a\.txt is binary, not text: it has a zero byte at 2"),
        ("a.jsonl", b'{"text": "a"}\n\n{"text": \n', r"a\.jsonl:3 is not JSON"),
        ("a.jsonl", b'{"text": "a"}\n["b"]\n', r"a\.jsonl:2 is no JSON object"),
        (
            "a.jsonl",
            b'{"body": "a", "n": 1}\n',
            r"a\.jsonl:1: .*'text' is missing; it has 'body', 'n'",
        ),
        ("a.jsonl", b'{"text": 3}\n', r"a\.jsonl:1: the field 'text' is not text"),
        (
            "a.jsonl",
            b'{"text": "a"}\n{"text": "\xff"}\n',
            r"a\.jsonl is not UTF-8: byte 0xff at offset 24",
        ),
        ("a.txt.gz", gzip.compress(b"abc" * 99, mtime=0)[:20], r"a\.txt\.gz cannot be read"),
        ("a.txt.gz", b"plain", r"a\.txt\.gz cannot be read: Not a gzipped file"),
        ("a.json", b"[]", r"a\.json is not of a kind that is read; it takes \.txt"),
    ],
)
def test_bad_files(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        texts(TextFiles(str(tmp_path / name)))
    assert "\n" not in str(error.value)


def test_bad_paths(tmp_path):
    for path, message in (
        (str(tmp_path / "no.txt"), "there is no file .*no.txt"),
        (str(tmp_path / "*.txt"), "no file matches"),
        (str(tmp_path), "holds no text file"),
        ("", "paths is empty"),
    ):
        with pytest.raises(UserError, match=message):
            len(TextFiles(path))


def test_documents_are_files_or_the_docs_of_python(tmp_path):
    assert Documents() == PythonDocs()
    assert Documents("a.txt") == TextFiles("a.txt")
