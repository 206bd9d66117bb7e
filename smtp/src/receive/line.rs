//! Takes command lines off the input with bounded memory.
