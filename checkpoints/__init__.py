"""Data: one card per weight file, and the embedded weights."""
