"""Weights in safetensors files: read and written by explicit ranges, without memory mapping and without torch."""
