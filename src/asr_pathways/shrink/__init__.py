"""One command from a recogniser to a small one for some languages: plans, trains, prunes, compares."""
