"""Who is in the cluster. Pure. One back end so far: `static`, a file of nodes."""
