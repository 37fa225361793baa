"""Corpora to data folders; a new corpus is a file here."""
