"""The only room that imports Airflow: DAGs, operators, triggers, the retry policy."""
