"""How a model is run, compared with another and timed, as it will be served."""
