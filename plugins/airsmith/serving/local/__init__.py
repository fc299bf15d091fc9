"""Endpoints as processes on this machine."""
