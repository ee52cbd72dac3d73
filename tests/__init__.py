"""The tests; a package so that a worker's child can import the functions defined in them."""
