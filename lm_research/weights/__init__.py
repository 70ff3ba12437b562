"""What is trained and what is held: architectures and optimizers know of none of it."""

from lm_research.weights.full import Full
from lm_research.weights.last_layers import LastLayers
from lm_research.weights.lora import LoRA
from lm_research.weights.part import Part
from lm_research.weights.rows import Rows

__all__ = ["Full", "LastLayers", "LoRA", "Part", "Rows"]
