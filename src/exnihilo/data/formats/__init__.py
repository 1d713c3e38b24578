"""Formats of files that hold more than text, one small file each; `choose` says which a file has."""
