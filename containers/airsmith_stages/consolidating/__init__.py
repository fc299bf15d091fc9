"""Checkpoints in shards, one file or more per process, become one model's safetensors files, without torch."""
