"""The whole chain in one verb: from random weights to a base model, with what each stage gained.

See `chain` for the stages' order, and one file for what each kind of data is measured by.
"""
