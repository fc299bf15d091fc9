"""Imported by accelerate; not used, because torchrun starts the processes."""
