"""Operators: resolve and preflight; a stage as a process, as a pod, or as a job on several nodes; endpoints."""
