"""Endpoints in a Kubernetes cluster."""
