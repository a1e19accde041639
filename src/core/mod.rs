//! Every decision of the program, and nothing else.
pub mod agent;
pub mod vocab;
