"""Meshes and point clouds: files, placement, sampling, inside and outside. Heavy libraries load when first used."""
