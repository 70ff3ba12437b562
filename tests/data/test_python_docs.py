import hashlib
import pickle
import subprocess
import sys

from lm_research.data import PythonDocs


def test_documents_of_sensible_length_without_duplicates():
    source = PythonDocs()
    texts = [record["text"] for record in source]
    assert len(texts) > 300 and sum(map(len, texts)) > 1_500_000
    assert len(set(texts)) == len(texts)
    assert min(map(len, texts)) >= 200
    assert any("json.dumps(" in text or "json.dumps" in text for text in texts)
    assert any(text.startswith("Lambdas") for text in texts)
    assert pickle.loads(pickle.dumps(source)) == source
    assert source.fingerprint() == PythonDocs().fingerprint()


def test_runs_nothing_of_the_library_and_is_the_same_elsewhere():
    program = (
        "import sys, hashlib; from lm_research.data import PythonDocs;"
        "text = ''.join(r['text'] for r in PythonDocs());"
        "assert not {'this', 'antigravity', 'tkinter'} & set(sys.modules);"
        "print(hashlib.sha256(text.encode()).hexdigest())"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    text = "".join(record["text"] for record in PythonDocs())
    assert done.stdout.strip() == hashlib.sha256(text.encode()).hexdigest()
