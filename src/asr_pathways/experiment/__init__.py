"""The matrix of runs, its ledger, and what they show together."""
