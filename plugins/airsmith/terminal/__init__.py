"""Terminal output: a run's plan, progress and result. Reads only the store."""
