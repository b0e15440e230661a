"""Score data sets on a Ray cluster, partition by partition."""
