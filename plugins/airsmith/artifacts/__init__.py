"""The object store, its layout, and artifacts that are published whole or not at all. Imports neither airflow nor torch."""
