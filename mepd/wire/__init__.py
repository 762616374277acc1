"""What travels between processes: framing and closed sets of messages. No policy, no I/O."""
