"""Streaming recognition with sparse weights: the recogniser, its searches and the kernels."""
