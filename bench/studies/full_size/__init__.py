"""FLUX.1-dev at full size with random weights: what needs no checkpoint, measured in pieces on one GPU."""
