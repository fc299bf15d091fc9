"""What Airsmith costs, measured on the real thing. No test depends on a figure."""
