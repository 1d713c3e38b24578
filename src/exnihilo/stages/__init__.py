"""Several trainings in a row, one run folder: pretraining, instructions, preferences, rewards. See `walk`."""
