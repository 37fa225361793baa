"""A pruned model in the forms that other programs take."""
