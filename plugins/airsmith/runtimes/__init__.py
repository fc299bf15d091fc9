"""How the process of a stage is started: as a child on this machine or as a pod."""
