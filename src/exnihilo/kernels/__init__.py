"""The few hot operations: a plain reference beside the fast version, same signature."""
