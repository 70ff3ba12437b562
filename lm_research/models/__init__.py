"""Architectures: a family is its sizes, its choices and its table of Hugging Face names."""

from lm_research.models.gemma import Gemma
from lm_research.models.gpt2 import GPT2
from lm_research.models.llama import Llama
from lm_research.models.transformer import Transformer

__all__ = ["Gemma", "GPT2", "Llama", "Transformer"]
