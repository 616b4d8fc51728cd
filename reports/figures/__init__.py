"""Figures from records, rankings and galleries: drawn with matplotlib, the same bytes each time."""
