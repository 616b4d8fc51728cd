"""The baseline: attention heads and MLP channels of small L1 norm removed in every block, then fine-tuning."""
