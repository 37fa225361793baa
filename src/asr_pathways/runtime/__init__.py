"""Running sparse recognisers on a CPU."""
