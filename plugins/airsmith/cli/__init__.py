"""Every `airsmith …` command: one module per group of commands. Each command is a few lines. Imports no Airflow."""
