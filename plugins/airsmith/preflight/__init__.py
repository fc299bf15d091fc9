"""What can be known to go wrong on a cluster, found out before any accelerator is asked for."""
