"""FastFLUX: prune FLUX-style diffusion transformers by replacing residual branches with linear layers."""
