//! Namespaces, kernels, peers and floods.
