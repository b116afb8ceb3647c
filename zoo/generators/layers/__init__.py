"""Bricks of generators."""
