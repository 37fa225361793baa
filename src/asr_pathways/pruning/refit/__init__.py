"""Refitting: the weights that masks keep are solved for, block by block."""
