"""DAGs: one module per DAG, called from a file in `dags/`."""
