"""What runs pruned models: the bundle format (`bundle`), one file for all languages."""
