"""Whisper on a CPU by this package's kernels, from a bundle, with neither torch nor transformers."""
