"""The DAG that removes what nobody needs any more. Airflow finds this file by the words dag and airflow."""

from airsmith.pipeline.janitor_dag import janitor_dag

dag = janitor_dag()
