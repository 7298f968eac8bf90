"""Function tests in Java: what crosses, what is generated from a suite, and the classes of both sides."""
