"""A small local server: the REST interface of TensorFlow Serving, and a page to try a model on."""
