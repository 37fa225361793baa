"""Whisper without torch: features, tokens, alignment and the forward pass in compiled steps."""
