"""An experiment in a running gateway: whether its report is what its clients saw, and what it costs them."""
