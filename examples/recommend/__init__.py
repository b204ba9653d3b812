"""A recommendation pipeline in C++: see README.md."""
