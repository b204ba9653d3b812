"""The Serving Keeper: takes specs over gRPC, stores them in etcd, decides placements."""
