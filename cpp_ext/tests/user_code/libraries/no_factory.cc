// A library like any other.
int Answer();
int Answer() { return 42; }
