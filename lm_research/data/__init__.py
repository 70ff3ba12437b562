"""Data: sources of records, tokenizers, and the way from text to packed windows of tokens."""

from lm_research.data.bag import Bag
from lm_research.data.choices import Choices
from lm_research.data.conll import CoNLL
from lm_research.data.conversations import Conversations
from lm_research.data.instruct import Instruct
from lm_research.data.labelled import Labelled
from lm_research.data.labelled_words import LabelledWords
from lm_research.data.multiple_choice import MultipleChoice
from lm_research.data.pack import Packed
from lm_research.data.pairs import EachTarget, Pairs, Parallel, Tagged
from lm_research.data.prepare import Prepared
from lm_research.data.python_docs import PythonDocs
from lm_research.data.questions import Questions
from lm_research.data.related import Related
from lm_research.data.source import Memory, Mix, Slice, Source
from lm_research.data.squad import SQuAD
from lm_research.data.sts import STS
from lm_research.data.table import Table
from lm_research.data.tatoeba import Tatoeba
from lm_research.data.text import Documents, TextFiles
from lm_research.data.texts import TokenTexts
from lm_research.data.tfds import TFDS
from lm_research.data.tokenizer import Tokenizer
from lm_research.data.vocabulary import BPE, Bytes, Characters, Pretrained, Words
from lm_research.data.webnlg import WebNLG
from lm_research.data.windows import Windows

__all__ = [
    "BPE",
    "Bag",
    "Bytes",
    "Characters",
    "Choices",
    "CoNLL",
    "Conversations",
    "Documents",
    "EachTarget",
    "Instruct",
    "Labelled",
    "LabelledWords",
    "Memory",
    "Mix",
    "MultipleChoice",
    "Packed",
    "Pairs",
    "Parallel",
    "Prepared",
    "Pretrained",
    "PythonDocs",
    "Questions",
    "Related",
    "SQuAD",
    "STS",
    "Slice",
    "Source",
    "TFDS",
    "Tatoeba",
    "TextFiles",
    "Table",
    "Tagged",
    "TokenTexts",
    "Tokenizer",
    "WebNLG",
    "Windows",
    "Words",
]
