"""Kills runs at random moments until they are done, and compares what they leave (`make stress`)."""
