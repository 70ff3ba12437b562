"""Triples and their texts, from XML as it is and from archives of it."""

import os
import pickle
import tarfile
from pathlib import Path

import pytest

from lm_research.data import EachTarget, WebNLG
from lm_research.errors import UserError

ENTRY = """<benchmark><entries><entry category="Airport" eid="Id1" size="2">
<originaltripleset><otriple>X | y | Z</otriple></originaltripleset>
<modifiedtripleset><mtriple>Aarhus_Airport | cityServed | "Aarhus"</mtriple>
<mtriple>Aarhus | leaderName | J._B.</mtriple></modifiedtripleset>
<lex lid="Id1">{}</lex><lex lid="Id2">{}</lex></entry>
<entry eid="Id2"><modifiedtripleset><mtriple>A | b | C</mtriple></modifiedtripleset></entry>
</entries></benchmark>"""
PLAIN = ENTRY.format("Aarhus airport serves\n Aarhus.", "J. B. leads.")
ENRICHED = ENTRY.format("<text>Aarhus airport serves Aarhus.</text>", "<text>J. B. leads.</text>")


@pytest.mark.parametrize("content", [PLAIN, ENRICHED])
def test_entries_are_lines_of_triples_and_texts(tmp_path, content):
    for split in ("train", "dev"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "a.xml").write_text(content)
    with tarfile.open(tmp_path / "all.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "train", "data/train")
        archive.add(tmp_path / "dev", "data/dev")
    texts = ("Aarhus airport serves Aarhus.", "J. B. leads.")
    source = "Aarhus Airport | city served | Aarhus && Aarhus | leader name | J. B."
    for found in (
        WebNLG(str(tmp_path / "all.tar.gz"), "*/dev/*.xml"),
        WebNLG(str(tmp_path), "*/train/*.xml"),
        WebNLG(str(tmp_path / "dev" / "a.xml")),
    ):
        found = pickle.loads(pickle.dumps(found))
        assert list(found) == [{"source": source, "target": texts[0], "targets": texts}]
        assert [record["target"] for record in EachTarget(found)] == list(texts)
        assert "xml" in found.fingerprint() or "tar" in found.fingerprint()


def test_texts_in_other_languages_are_none(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text(PLAIN.replace('<lex lid="Id2">', '<lex lang="ru" lid="Id2">'))
    english = pickle.loads(pickle.dumps(WebNLG(str(path), lang="en")))
    assert english[0]["targets"] == ("Aarhus airport serves Aarhus.",)  # which says no language
    assert len(WebNLG(str(path), lang="ru")[0]["targets"]) == len(WebNLG(str(path))[0]["targets"])
    path.write_text(PLAIN.replace("<lex ", '<lex lang="ru" '))
    with pytest.raises(UserError, match="triples and texts in the language 'en' in files"):
        len(WebNLG(str(path), lang="en"))


def test_what_holds_no_triples_is_refused(tmp_path):
    path = tmp_path / "a.xml"
    for content, words in (
        ("<a", "a.xml is not XML"),
        ("<a/>", "holds no entries"),
        (PLAIN.replace(" | leaderName", ""), "a.xml: entry Id1: the triple .* has 2 parts"),
    ):
        path.write_text(content)
        with pytest.raises(UserError, match=words):
            len(WebNLG(str(path)))
    with pytest.raises(UserError, match="no file"):
        WebNLG(str(tmp_path / "none.xml")).fingerprint()


def test_the_published_counts():
    if "LM_RESEARCH_DATA" not in os.environ:
        pytest.skip("LM_RESEARCH_DATA, under which webnlg/ lies, is not set")
    archive = Path(os.environ["LM_RESEARCH_DATA"]) / "webnlg" / "webnlg_enriched_v1.6.tar.gz"
    found = WebNLG(str(archive), "*/en/test/*.xml")
    assert (len(found), len(EachTarget(found))) == (1862, 4928)
