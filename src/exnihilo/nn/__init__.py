"""Blocks of a transformer: layout, attention, positions, norms, mlp."""
