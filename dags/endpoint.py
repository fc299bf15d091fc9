"""The DAG that changes an endpoint on request. Airflow discovers this file by the words dag and airflow."""

from airsmith.airflow.dags.endpoint import endpoint_dag

dag = endpoint_dag()
