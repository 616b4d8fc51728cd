"""The page: one HTML file with tables, plot, images and records of a profile."""
