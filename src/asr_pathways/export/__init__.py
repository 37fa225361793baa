"""A pruned model in the formats of other programs."""
