"""The DAG that deletes unused objects from the store. Airflow discovers this file by the words dag and airflow."""

from airsmith.airflow.dags.janitor import janitor_dag

dag = janitor_dag()
