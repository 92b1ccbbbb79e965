//! An Agent of one node.
fn main() {}
