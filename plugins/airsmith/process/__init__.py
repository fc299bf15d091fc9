"""Stages and servers as processes of this machine: start, guard, detach, log."""
