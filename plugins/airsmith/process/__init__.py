"""A stage as a process of this machine: started, guarded, detached, logged. Imports no Airflow."""
