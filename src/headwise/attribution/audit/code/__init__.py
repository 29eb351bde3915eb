"""What is audited: somebody's code, called on copies, with what it did to its surroundings."""
