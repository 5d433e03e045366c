"""Frames: what a push and a delta are as bytes, and the arithmetic on both sides."""
