"""Triggers that follow deferred pods and jobs in the triggerer."""
