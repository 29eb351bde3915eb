"""From what is declared to concrete places in the outputs and targets of a call: its plan."""
