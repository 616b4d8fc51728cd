"""FastFLUX's method: blocks replaced one at a time, each followed by Sandwich Training (paper section 3.2)."""
