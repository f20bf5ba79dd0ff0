//! The three examples, unmodified, behind their prefixes.
