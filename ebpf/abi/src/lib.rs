//! What the gate and the daemon must agree on.
