"""The report of an experiment: Markdown, written once, with its charts; the same as a web page."""
