"""Families of models: one file each; the file's name is its registry entry (see model/family.py)."""
