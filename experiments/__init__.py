"""One-off proofs, run by hand."""
