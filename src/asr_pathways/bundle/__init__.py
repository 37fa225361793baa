"""One file that holds a model and the pathways of all its languages."""
