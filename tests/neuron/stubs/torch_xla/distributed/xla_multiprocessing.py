"""Imported by accelerate; torchrun starts the processes here."""
