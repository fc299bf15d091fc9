"""What a person sees in a terminal: a run's progress and its result. Reads the store alone."""
