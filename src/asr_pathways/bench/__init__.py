"""``asr-pathways bench``: what a sparse model gains on this machine, beside dense ones in the same run."""
