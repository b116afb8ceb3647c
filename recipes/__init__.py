"""Data: one YAML per trainable model, composed by Hydra."""
