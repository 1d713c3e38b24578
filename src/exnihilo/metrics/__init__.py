"""Figures from predictions: numpy only, from whole-split counts, equal to the reference scorers."""
