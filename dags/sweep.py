"""One DAG per recipe with a `sweep` section. Airflow discovers this file by the words dag and airflow."""

from pathlib import Path

from airsmith.airflow.dags.sweep import sweep_dags

for dag in sweep_dags(Path(__file__).parent / "recipes"):
    globals()[dag.dag_id] = dag
