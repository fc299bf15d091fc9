"""What nobody needs any more: found by what points to what, told in bytes, and removed. Knows no airflow."""
