"""A trained model made longer: every method side by side, with the numbers that choose one."""
