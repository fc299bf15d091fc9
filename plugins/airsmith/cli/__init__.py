"""The `airsmith` command line: one module per group of commands. Imports no airflow."""
