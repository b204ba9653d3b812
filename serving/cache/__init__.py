"""The semantic cache's core: what may share an answer, where answers are kept, and how they are found."""
