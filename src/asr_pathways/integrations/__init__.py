"""Pathways in training loops of others; each module needs the library that it is named after: see docs/loops.md."""
