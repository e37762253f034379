//! bin
mod lab;
fn main() {}
