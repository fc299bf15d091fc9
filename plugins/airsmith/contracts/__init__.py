"""What every stage promises: inputs, outputs, digests, errors and a run's files. Imports neither airflow nor torch."""
