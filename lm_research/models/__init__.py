"""Architectures: a family is its sizes, its choices and its table of Hugging Face names."""

from lm_research.models.albert import ALBERT
from lm_research.models.bart import BART
from lm_research.models.bert import BERT
from lm_research.models.class_writer import ClassWriter
from lm_research.models.classifier import Classifier, TextClassifier
from lm_research.models.distilbert import DistilBERT
from lm_research.models.electra import ELECTRA, ELECTRAPair
from lm_research.models.embedder import Embedder, TextEmbedder
from lm_research.models.encoder_decoder import EncoderDecoder
from lm_research.models.fasttext import FastText
from lm_research.models.gemma import Gemma
from lm_research.models.gpt2 import GPT2
from lm_research.models.gpt_neox import GPTNeoX
from lm_research.models.hybrid import Hybrid
from lm_research.models.llama import Llama
from lm_research.models.mamba2 import Mamba2
from lm_research.models.mixtral import Mixtral
from lm_research.models.modernbert import ModernBERT
from lm_research.models.olmo2 import OLMo2
from lm_research.models.opt import OPT
from lm_research.models.original import OriginalTransformer
from lm_research.models.phi3 import Phi3
from lm_research.models.roberta import RoBERTa
from lm_research.models.t5 import T5
from lm_research.models.transformer import Transformer
from lm_research.models.two_stream import TwoStream
from lm_research.models.xlnet import XLNet

__all__ = [
    "ALBERT",
    "BART",
    "BERT",
    "ClassWriter",
    "Classifier",
    "DistilBERT",
    "ELECTRA",
    "ELECTRAPair",
    "Embedder",
    "EncoderDecoder",
    "FastText",
    "GPT2",
    "GPTNeoX",
    "Gemma",
    "Hybrid",
    "Llama",
    "Mamba2",
    "Mixtral",
    "ModernBERT",
    "OLMo2",
    "OPT",
    "OriginalTransformer",
    "Phi3",
    "RoBERTa",
    "T5",
    "TextClassifier",
    "TextEmbedder",
    "Transformer",
    "TwoStream",
    "XLNet",
]
