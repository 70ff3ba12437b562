"""What is trained and what is held: architectures and optimizers know of none of it."""

from lm_research.weights.full import Full
from lm_research.weights.lora import LoRA
from lm_research.weights.part import Part

__all__ = ["Full", "LoRA", "Part"]
