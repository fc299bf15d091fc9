"""The DAG that removes what nobody needs any more. Airflow finds this file by the words dag and airflow."""

from airsmith.airflow.dags.janitor import janitor_dag

dag = janitor_dag()
