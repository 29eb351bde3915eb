"""What pages say of a run, of its network and of its evaluations: blocks and sentences, from tables that are read."""
