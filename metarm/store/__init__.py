"""Versions of the reward model on disk, and what their manifests record. No torch."""
