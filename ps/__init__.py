"""The model, one shard a process."""
