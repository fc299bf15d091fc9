"""The DAG by which a person changes an endpoint. Airflow finds this file by the words dag and airflow."""

from airsmith.airflow.dags.endpoint import endpoint_dag

dag = endpoint_dag()
