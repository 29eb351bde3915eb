"""Names of losses from code: variables, where losses were made, what made them."""
