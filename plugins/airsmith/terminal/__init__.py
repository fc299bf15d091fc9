"""What a person sees in a terminal: a run's progress while it goes, its result when it is done. Reads the store alone."""
