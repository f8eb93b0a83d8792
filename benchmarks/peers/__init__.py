"""What other people's programs say about the same input, recorded for tests. Each script has its own requirements."""
