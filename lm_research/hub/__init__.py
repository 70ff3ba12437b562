"""Hugging Face directories: read by `load`, written by `save`, after each family's table."""
