"""The report's files: Markdown, LaTeX, HTML, CSV and JSON."""
