"""Many photos: the plan, the journal of an output folder, and the executors that make the attacks."""
