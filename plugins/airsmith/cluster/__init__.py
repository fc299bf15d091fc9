"""What every pod and job in a cluster shares: security, labels, queues, failures, access. Imports no Airflow."""
