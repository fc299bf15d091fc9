"""The object store, its layout, and artifacts, published whole or not at all. Imports neither airflow nor torch."""
