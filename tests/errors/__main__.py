"""Writes docs/errors.md: ``python -m tests.errors``."""

from tests.errors.table import PAGE, page

PAGE.write_text(page())
