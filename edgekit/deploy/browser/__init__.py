"""A page on this machine's loopback address that runs a .tflite in the browser, beside `edgekit predict`."""
