"""The trusted side: what writes the log and reaches the outside."""
