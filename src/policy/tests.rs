//! Laws of the loader as a whole.
