"""Bricks that several encoders and decoders share."""
