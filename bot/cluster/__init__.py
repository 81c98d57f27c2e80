"""A Kubernetes API server, as platform and runner need it: where it is, how it is asked, what may be done there, why a pod does not run."""
