"""Several processes that do one work: who they are, how they stand to each other, what passes between them."""
