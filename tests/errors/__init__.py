"""Bad input of every kind, and what the user sees: the table in docs/errors.md, each row of which is a test."""
