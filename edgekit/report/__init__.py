"""The measured figures of a run as a table on the terminal, as Markdown, as JSON and as one self-contained HTML page."""
