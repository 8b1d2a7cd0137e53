//! Request and reply types of the control socket.
