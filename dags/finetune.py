"""One fine-tuning DAG per recipe in `recipes/`. Airflow discovers this file by the words dag and airflow."""

from pathlib import Path

from airsmith.airflow.dags.finetune import recipe_dags

for dag in recipe_dags(Path(__file__).parent / "recipes"):
    globals()[dag.dag_id] = dag
