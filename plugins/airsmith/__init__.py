"""Fine-tune language models on Kubernetes with Airflow: a typed recipe becomes a DAG."""

__version__ = "0.1.0"
