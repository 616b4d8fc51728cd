"""LaTeX: tables as fragments, any text escaped, and a document of all of it."""
