"""Recipes: one file each with ``def recipe() -> RunConfig``; the file's name is what the command line calls
it."""
