"""What a run measures: its model, prompts, metrics and variants."""

from pathlib import Path

RANKINGS = Path(__file__).parent / "rankings"
"""Orders in which blocks go, measured by `python -m bench rank`, one file for each profile."""
