"""Data: sources of records, tokenizers, and the way from text to packed windows of tokens."""

from lm_research.data.pack import Packed, Prepared
from lm_research.data.pairs import Pairs, Parallel, TokenPairs
from lm_research.data.python_docs import PythonDocs
from lm_research.data.source import Memory, Mix, Slice, Source
from lm_research.data.text import Documents, TextFiles
from lm_research.data.tfds import TFDS
from lm_research.data.tokenizer import Tokenizer
from lm_research.data.vocabulary import BPE, Bytes, Characters, Pretrained
from lm_research.data.windows import Windows

__all__ = [
    "BPE",
    "Bytes",
    "Characters",
    "Documents",
    "Memory",
    "Mix",
    "Packed",
    "Pairs",
    "Parallel",
    "Prepared",
    "Pretrained",
    "PythonDocs",
    "Slice",
    "Source",
    "TFDS",
    "TextFiles",
    "TokenPairs",
    "Tokenizer",
    "Windows",
]
