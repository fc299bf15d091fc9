"""Consolidate sharded checkpoints, with one or more files per process, into safetensors files, without torch."""
