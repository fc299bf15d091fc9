"""From recipe to run: what runs, in what order and with what. Only `dag.py` imports airflow."""
