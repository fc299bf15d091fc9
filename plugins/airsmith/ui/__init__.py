"""Airsmith's pages in Airflow's UI."""
