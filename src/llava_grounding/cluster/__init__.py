"""Work in pieces on a Dask cluster, whoever started it: on this machine, by SLURM, Kubernetes, or in a cloud."""
