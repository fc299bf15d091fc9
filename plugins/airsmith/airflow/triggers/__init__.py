"""Triggers that follow deferred pods and jobs."""
