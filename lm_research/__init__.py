"""Language-model research in JAX: one core for every architecture and objective."""

__version__ = "0.1.0"
