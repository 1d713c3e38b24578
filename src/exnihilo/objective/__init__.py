"""Training types: one small file each; the file's name is its registry entry (see `registry`)."""
