"""Pure pieces of reinforcement learning: advantages, ratios, clips, corrections, divergences, aggregation."""
