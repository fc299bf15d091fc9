"""Weights as they lie in safetensors files: read and written by explicit ranges, never mapped, without torch."""
