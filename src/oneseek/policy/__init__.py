"""What follows from an epoch: who leads, how weights move, whether to stop. Decisions are functions of the state."""
