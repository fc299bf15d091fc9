"""The contract of every stage: inputs, outputs, digests and the files of a run. Imports neither airflow nor torch."""
