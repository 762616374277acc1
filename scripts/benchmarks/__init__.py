"""What scripts/bench measures: mepd beside globus-compute-endpoint on one broker."""
