"""The object store, its layout, and atomically published artifacts. Imports neither airflow nor torch."""
