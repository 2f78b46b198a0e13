"""Where the servers of a backend are, when the configuration names a Kubernetes Service in place of URLs."""
