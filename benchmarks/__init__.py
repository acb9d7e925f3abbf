"""What gpuroi takes, beside what its peers take, on the same input and in the same run."""
