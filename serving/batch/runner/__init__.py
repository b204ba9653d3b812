"""Who works on the batches of `/v1/batches`: takes orders, runs each as a job, publishes what comes of it."""
