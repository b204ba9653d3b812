// A library like any other.
int Answer() { return 42; }
