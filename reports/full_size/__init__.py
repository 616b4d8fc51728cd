"""Tables of a full-size run with random weights: latency against FLOPs and the paper, cost of pruning, scorers."""
