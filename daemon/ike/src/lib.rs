//! The sans-IO IKEv2 protocol core.
