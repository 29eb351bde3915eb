"""The books of every step: the ledger, what its rows mean, and the same for foreign criteria."""
